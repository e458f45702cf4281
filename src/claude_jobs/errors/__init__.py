"""The one error tree. Every error a caller can meet is here, with the fields it needs to act.

ClaudeJobsError                     code, retryable
├── AdmissionError                  the job was not accepted
│   ├── InvalidRequest              field
│   ├── QueueFull                   limit, queued, asked
│   ├── KeyConflict                 job_id
│   ├── NoTokenAvailable
│   │   └── LoginUnknown
│   ├── NotPermitted                field
│   ├── RecursionRefused            limit, value, chain, retry_after_s
│   ├── QuotaExceeded               counter, limit, used, asked, resets_ms, retry_after_s
│   ├── RateExceeded                counter, limit, retry_after_s
│   └── NoRoute                     tried
├── JobError
│   ├── JobNotFound                 job_id
│   └── InvalidTransition           state, trigger
├── ProviderError                   provider, model, status, is_provider_fault
│   ├── RateLimited                 retry_after_s
│   ├── Overloaded                  retry_after_s
│   ├── ModelNotFound
│   ├── AuthenticationFailed
│   ├── ContextTooLong
│   ├── ContentRefused
│   ├── RequestRefused
│   ├── ProviderTimeout
│   ├── ProviderUnavailable
│   └── BadResponse
├── RunnerError
│   ├── ClaudeNotFound
│   └── SpawnFailed                 path
├── StoreError
│   ├── StoreUnavailable            path
│   ├── StoreCorrupt                path
│   └── StoreTooNew                 path, found, supported
└── WorkerError
    ├── WorkerUnavailable
    └── WorkerLost

A message says what, which (`!r`), limit and actual, and the next step. None carries a secret.
"""

from __future__ import annotations

from claude_jobs.errors.jobs import (
    AdmissionError,
    ClaudeJobsError,
    ClaudeNotFound,
    InvalidRequest,
    InvalidTransition,
    JobError,
    JobNotFound,
    KeyConflict,
    LoginUnknown,
    NoRoute,
    NoTokenAvailable,
    NotPermitted,
    QueueFull,
    QuotaExceeded,
    RateExceeded,
    RecursionRefused,
    RunnerError,
    SpawnFailed,
    StoreCorrupt,
    StoreError,
    StoreTooNew,
    StoreUnavailable,
    WorkerError,
    WorkerLost,
    WorkerUnavailable,
)
from claude_jobs.errors.providers import (
    AuthenticationFailed,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)

__all__ = [
    "AdmissionError",
    "AuthenticationFailed",
    "BadResponse",
    "ClaudeJobsError",
    "ClaudeNotFound",
    "ContentRefused",
    "ContextTooLong",
    "InvalidRequest",
    "InvalidTransition",
    "JobError",
    "JobNotFound",
    "KeyConflict",
    "LoginUnknown",
    "ModelNotFound",
    "NoRoute",
    "NoTokenAvailable",
    "NotPermitted",
    "Overloaded",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QueueFull",
    "QuotaExceeded",
    "RateExceeded",
    "RateLimited",
    "RecursionRefused",
    "RequestRefused",
    "RunnerError",
    "SpawnFailed",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "WorkerError",
    "WorkerLost",
    "WorkerUnavailable",
]
