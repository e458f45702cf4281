PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE attempts (
        job_id TEXT NOT NULL, epoch INTEGER NOT NULL, is_open INTEGER NOT NULL, doc TEXT NOT NULL,
        PRIMARY KEY (job_id, epoch)
    ) WITHOUT ROWID;
INSERT INTO "attempts" VALUES('j-admttd',1,1,'{"job_id":"j-admttd","epoch":1,"token":"bbb","owner":"w2","admitted_ms":1800000000000}');
INSERT INTO "attempts" VALUES('j-failed',1,0,'{"job_id":"j-failed","epoch":1,"token":"aaa","owner":"w1","admitted_ms":1800000000000,"started_ms":1800000000000,"finished_ms":1800000000000,"failure":"bad_request","message":"it was bad_request"}');
INSERT INTO "attempts" VALUES('j-flaggd',1,1,'{"job_id":"j-flaggd","epoch":1,"token":"ccc","owner":"w1","admitted_ms":1800000000000,"started_ms":1800000000000}');
INSERT INTO "attempts" VALUES('j-retryd',1,0,'{"job_id":"j-retryd","epoch":1,"token":"bbb","owner":"w1","admitted_ms":1800000000000,"started_ms":1800000000000,"finished_ms":1800000000000,"failure":"timed_out","message":"it was timed_out"}');
INSERT INTO "attempts" VALUES('j-runnng',1,1,'{"job_id":"j-runnng","epoch":1,"token":"aaa","owner":"w1","admitted_ms":1800000000000,"started_ms":1800000000000}');
INSERT INTO "attempts" VALUES('j-succed',1,0,'{"job_id":"j-succed","epoch":1,"token":"ccc","owner":"w1","admitted_ms":1800000000000,"started_ms":1800000000000,"finished_ms":1800000000000,"failure":""}');
CREATE TABLE batches (id TEXT PRIMARY KEY, max_parallel INTEGER) WITHOUT ROWID;
INSERT INTO "batches" VALUES('B',0);
CREATE TABLE classes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, pool TEXT NOT NULL, depth INTEGER NOT NULL,
        model TEXT NOT NULL, offers TEXT NOT NULL
    );
INSERT INTO "classes" VALUES(1,'["host:a",0,"opus",["zzz"]]','host:a',0,'"opus"','["zzz"]');
INSERT INTO "classes" VALUES(2,'["host:a",0,"opus",["aaa"]]','host:a',0,'"opus"','["aaa"]');
INSERT INTO "classes" VALUES(3,'["host:a",0,"opus",["aaa","bbb","ccc"]]','host:a',0,'"opus"','["aaa","bbb","ccc"]');
INSERT INTO "classes" VALUES(4,'["host:a",1,"opus",["zzz"]]','host:a',1,'"opus"','["zzz"]');
INSERT INTO "classes" VALUES(5,'["host:a",0,"sonnet",["aaa","bbb","ccc"]]','host:a',0,'"sonnet"','["aaa","bbb","ccc"]');
CREATE TABLE counters (key TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counters" VALUES('d:0',3);
INSERT INTO "counters" VALUES('g',3);
INSERT INTO "counters" VALUES('h:w1',2);
INSERT INTO "counters" VALUES('h:w2',1);
INSERT INTO "counters" VALUES('r:j-admttd',1);
INSERT INTO "counters" VALUES('r:j-flaggd',1);
INSERT INTO "counters" VALUES('r:j-runnng',1);
INSERT INTO "counters" VALUES('s:admitted',1);
INSERT INTO "counters" VALUES('s:cancelled',1);
INSERT INTO "counters" VALUES('s:delayed',2);
INSERT INTO "counters" VALUES('s:expired',1);
INSERT INTO "counters" VALUES('s:failed',1);
INSERT INTO "counters" VALUES('s:ready',3);
INSERT INTO "counters" VALUES('s:running',2);
INSERT INTO "counters" VALUES('s:succeeded',1);
INSERT INTO "counters" VALUES('t:aaa',1);
INSERT INTO "counters" VALUES('t:bbb',1);
INSERT INTO "counters" VALUES('t:ccc',1);
INSERT INTO "counters" VALUES('unread',4);
CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL, epoch INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
    );
INSERT INTO "events" VALUES(1,'j-ready',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(2,'j-laterr',0,1800000000000,'submitted','{"state":"delayed","model":"opus","priority":0}');
INSERT INTO "events" VALUES(3,'j-parked',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0,"batch_id":"B"}');
INSERT INTO "events" VALUES(4,'j-runnng',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(5,'j-runnng',1,1800000000000,'admitted','{"owner":"w1","token":"aaa","waited_ms":0}');
INSERT INTO "events" VALUES(6,'j-runnng',1,1800000000000,'started','{}');
INSERT INTO "events" VALUES(7,'j-runnng',1,1800000000000,'text','{"text":"hi"}');
INSERT INTO "events" VALUES(8,'j-childd',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0,"parent_id":"j-runnng","depth":1}');
INSERT INTO "events" VALUES(9,'j-admttd',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(10,'j-admttd',1,1800000000000,'admitted','{"owner":"w2","token":"bbb","waited_ms":0}');
INSERT INTO "events" VALUES(11,'j-succed',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(12,'j-succed',1,1800000000000,'admitted','{"owner":"w1","token":"ccc","waited_ms":0}');
INSERT INTO "events" VALUES(13,'j-succed',1,1800000000000,'started','{}');
INSERT INTO "events" VALUES(14,'j-succed',1,1800000000000,'finished','{"state":"succeeded","failure":"","message":"","token":"ccc","attempts":1,"cost_nusd":0}');
INSERT INTO "events" VALUES(15,'j-failed',0,1800000000000,'submitted','{"state":"ready","model":"sonnet","priority":0}');
INSERT INTO "events" VALUES(16,'j-failed',1,1800000000000,'admitted','{"owner":"w1","token":"aaa","waited_ms":0}');
INSERT INTO "events" VALUES(17,'j-failed',1,1800000000000,'started','{}');
INSERT INTO "events" VALUES(18,'j-failed',1,1800000000000,'finished','{"state":"failed","failure":"bad_request","message":"it was bad_request","token":"aaa","attempts":1,"cost_nusd":0}');
INSERT INTO "events" VALUES(19,'j-cancld',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(20,'j-cancld',0,1800000000000,'finished','{"state":"cancelled","failure":"cancelled","message":"enough","token":"","attempts":0,"cost_nusd":0}');
INSERT INTO "events" VALUES(21,'j-expird',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(22,'j-expird',0,1800000000001,'finished','{"state":"expired","failure":"deadline","message":"The deadline passed before it could run.","token":"","attempts":0,"cost_nusd":0}');
INSERT INTO "events" VALUES(23,'j-retryd',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(24,'j-retryd',1,1800000000000,'admitted','{"owner":"w1","token":"bbb","waited_ms":0}');
INSERT INTO "events" VALUES(25,'j-retryd',1,1800000000000,'started','{}');
INSERT INTO "events" VALUES(26,'j-retryd',1,1800000000000,'retry','{"failure":"timed_out","message":"it was timed_out","reason":"backoff","token":"bbb","attempts":1,"not_before_ms":1800000002500}');
INSERT INTO "events" VALUES(27,'j-flaggd',0,1800000000000,'submitted','{"state":"ready","model":"opus","priority":0}');
INSERT INTO "events" VALUES(28,'j-flaggd',1,1800000000000,'admitted','{"owner":"w1","token":"ccc","waited_ms":0}');
INSERT INTO "events" VALUES(29,'j-flaggd',1,1800000000000,'started','{}');
INSERT INTO "events" VALUES(30,'j-flaggd',1,1800000000000,'cancel_requested','{"why":"stop"}');
CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        owner TEXT NOT NULL,
        class_id INTEGER,
        batch_id TEXT NOT NULL,
        rank INTEGER NOT NULL,
        submitter TEXT NOT NULL,
        key TEXT NOT NULL,
        parent_id TEXT,
        tags TEXT NOT NULL,
        backoff_since_ms INTEGER,
        not_before_ms INTEGER,
        deadline_ms INTEGER,
        finished_ms INTEGER,
        is_unread INTEGER NOT NULL,
        permits TEXT NOT NULL,
        events INTEGER NOT NULL DEFAULT 0,
        progress TEXT NOT NULL DEFAULT '{}',
        doc TEXT NOT NULL
    );
INSERT INTO "jobs" VALUES(1,'j-ready','ready',0,'',1,'',1800000000000,'uid:1','k',NULL,'red',NULL,NULL,NULL,NULL,0,'[]',1,'{}','{"id":"j-ready","state":"ready","root_id":"j-ready","depth":0,"offers":["zzz"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000001","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"key":"k","label":"red"}');
INSERT INTO "jobs" VALUES(2,'j-laterr','delayed',0,'',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,1800000009000,NULL,NULL,0,'[]',1,'{}','{"id":"j-laterr","state":"delayed","root_id":"j-laterr","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000002","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"not_before_ms":1800000009000}');
INSERT INTO "jobs" VALUES(3,'j-parked','ready',0,'',2,'B',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,NULL,0,'[]',1,'{}','{"id":"j-parked","state":"ready","root_id":"j-parked","depth":0,"offers":["aaa"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000003","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"batch_id":"B"}');
INSERT INTO "jobs" VALUES(4,'j-runnng','running',1,'w1',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,NULL,0,'["g","d:0","r:j-runnng","t:aaa","h:w1"]',4,'{"doing":"Bash","turns":2,"cost_nusd":5}','{"id":"j-runnng","state":"running","root_id":"j-runnng","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000004","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"epoch":1,"owner":"w1","token":"aaa","started_ms":1800000000000}');
INSERT INTO "jobs" VALUES(5,'j-childd','ready',0,'',4,'',1800000000000,'uid:1','','j-runnng','',NULL,NULL,NULL,NULL,0,'[]',1,'{}','{"id":"j-childd","state":"ready","root_id":"j-runnng","depth":1,"offers":["zzz"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000005","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"parent_id":"j-runnng"}');
INSERT INTO "jobs" VALUES(6,'j-admttd','admitted',1,'w2',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,NULL,0,'["g","d:0","r:j-admttd","t:bbb","h:w2"]',2,'{}','{"id":"j-admttd","state":"admitted","root_id":"j-admttd","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000006","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"epoch":1,"owner":"w2","token":"bbb"}');
INSERT INTO "jobs" VALUES(7,'j-succed','succeeded',1,'',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,1800000000000,1,'[]',4,'{}','{"id":"j-succed","state":"succeeded","root_id":"j-succed","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000007","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"epoch":1,"attempts":1,"token":"ccc","started_ms":1800000000000,"finished_ms":1800000000000}');
INSERT INTO "jobs" VALUES(8,'j-failed','failed',1,'',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,1800000000000,1,'[]',4,'{}','{"id":"j-failed","state":"failed","root_id":"j-failed","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000008","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"epoch":1,"attempts":1,"token":"aaa","started_ms":1800000000000,"finished_ms":1800000000000}');
INSERT INTO "jobs" VALUES(9,'j-cancld','cancelled',0,'',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,1800000000000,1,'[]',2,'{}','{"id":"j-cancld","state":"cancelled","root_id":"j-cancld","depth":0,"offers":["zzz"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-000000000009","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"cancel_why":"enough","finished_ms":1800000000000}');
INSERT INTO "jobs" VALUES(10,'j-expird','expired',0,'',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,1800000000001,1800000000001,1,'[]',2,'{}','{"id":"j-expird","state":"expired","root_id":"j-expird","depth":0,"offers":["zzz"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-00000000000a","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"deadline_ms":1800000000001,"finished_ms":1800000000001}');
INSERT INTO "jobs" VALUES(11,'j-retryd','delayed',1,'',NULL,'',1800000000000,'uid:1','',NULL,'',1800000000000,1800000002500,NULL,NULL,0,'[]',4,'{}','{"id":"j-retryd","state":"delayed","root_id":"j-retryd","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-00000000000b","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"reason":"backoff","epoch":1,"attempts":1,"timeouts":1,"token":"bbb","not_before_ms":1800000002500,"started_ms":1800000000000}');
INSERT INTO "jobs" VALUES(12,'j-flaggd','running',1,'w1',NULL,'',1800000000000,'uid:1','',NULL,'',NULL,NULL,NULL,NULL,0,'["g","d:0","r:j-flaggd","t:ccc","h:w1"]',4,'{}','{"id":"j-flaggd","state":"running","root_id":"j-flaggd","depth":0,"offers":["aaa","bbb","ccc"],"submitter":"uid:1","pool":"host:a","session_id":"00000000-0000-0000-0000-00000000000c","rank":1800000000000,"created_ms":1800000000000,"queued_since_ms":1800000000000,"usage":{},"epoch":1,"owner":"w1","token":"ccc","cancel_why":"stop","started_ms":1800000000000}');
CREATE TABLE lanes (
        class_id INTEGER NOT NULL, batch_id TEXT NOT NULL, rank INTEGER NOT NULL, seq INTEGER NOT NULL,
        is_parked INTEGER NOT NULL, PRIMARY KEY (class_id, batch_id)
    ) WITHOUT ROWID;
INSERT INTO "lanes" VALUES(1,'',1800000000000,1,0);
INSERT INTO "lanes" VALUES(2,'B',1800000000000,3,1);
INSERT INTO "lanes" VALUES(4,'',1800000000000,5,0);
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('min_reader',1);
CREATE TABLE outcomes (job_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "outcomes" VALUES('j-cancld','{"failure":"cancelled","message":"enough"}');
INSERT INTO "outcomes" VALUES('j-expird','{"failure":"deadline","message":"The deadline passed before it could run."}');
INSERT INTO "outcomes" VALUES('j-failed','{"failure":"bad_request","message":"it was bad_request"}');
INSERT INTO "outcomes" VALUES('j-succed','{"text":"done"}');
CREATE TABLE specs (job_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "specs" VALUES('j-admttd','{"prompt":"admitted","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-cancld','{"prompt":"cancelled","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-childd','{"prompt":"child","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-expird','{"prompt":"expired","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-failed','{"prompt":"failed","model":"sonnet","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-flaggd','{"prompt":"flagged","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-laterr','{"prompt":"later","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-parked','{"prompt":"parked in its batch","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-ready','{"prompt":"ready","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-retryd','{"prompt":"retried","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-runnng','{"prompt":"running","model":"opus","cwd":"/tmp"}');
INSERT INTO "specs" VALUES('j-succed','{"prompt":"succeeded","model":"opus","cwd":"/tmp"}');
CREATE TABLE texts (name TEXT PRIMARY KEY, job_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (fingerprint TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "tokens" VALUES('aaa','{"fingerprint":"aaa","name":"AAA","kind":"oauth","last_used":4,"jobs":2,"seen_ms":1800000000000}');
INSERT INTO "tokens" VALUES('bbb','{"fingerprint":"bbb","name":"BBB","kind":"oauth","last_used":5,"jobs":2,"seen_ms":1800000000000}');
INSERT INTO "tokens" VALUES('ccc','{"fingerprint":"ccc","name":"CCC","kind":"oauth","last_used":6,"warm_ms":1800000000000,"jobs":2,"seen_ms":1800000000000}');
CREATE UNIQUE INDEX jobs_key ON jobs (submitter, key) WHERE key <> '';
CREATE INDEX jobs_lane ON jobs (class_id, batch_id, rank, seq) WHERE class_id IS NOT NULL;
CREATE INDEX jobs_rank ON jobs (rank, seq) WHERE class_id IS NOT NULL;
CREATE INDEX jobs_state ON jobs (state, is_unread);
CREATE INDEX jobs_owner ON jobs (owner) WHERE owner <> '';
CREATE INDEX jobs_parent ON jobs (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX jobs_batch ON jobs (batch_id, seq) WHERE batch_id <> '';
CREATE INDEX jobs_due ON jobs (not_before_ms) WHERE state = 'delayed';
CREATE INDEX jobs_backoff ON jobs (backoff_since_ms) WHERE backoff_since_ms IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_ms) WHERE deadline_ms IS NOT NULL AND finished_ms IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_ms) WHERE finished_ms IS NOT NULL;
CREATE INDEX jobs_unread ON jobs (seq) WHERE is_unread = 1;
CREATE INDEX texts_job ON texts (job_id);
CREATE INDEX events_job ON events (job_id, seq);
CREATE INDEX lanes_order ON lanes (class_id, rank, seq) WHERE is_parked = 0;
CREATE INDEX lanes_batch ON lanes (batch_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('classes',5);
INSERT INTO "sqlite_sequence" VALUES('jobs',12);
INSERT INTO "sqlite_sequence" VALUES('events',30);
COMMIT;
