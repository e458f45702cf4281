"""MultiTokenManager: the credentials this worker holds in memory, whose they are, and what is known about them.

Secrets come in over the private socket or from the user's own `.env` in CLAUDE_JOBS_HOME; they are handed to the keeper
and to the processes of jobs, and are written nowhere. Which token an attempt gets is decided by the store (policy.tokens).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from dotenv import dotenv_values

from claude_jobs.domain.token import Credential, TokenKind, TokenNote, TokenState
from claude_jobs.errors import NoTokenAvailable, StoreError
from claude_jobs.policy import credentials as rules
from claude_jobs.policy.tokens import out_of_use
from claude_jobs.runner.environment import Pairs, doors, split
from claude_jobs.runner.transcript import config_dir
from claude_jobs.services.caller import Caller
from claude_jobs.services.database import StoreThread
from claude_jobs.stores.base import JobStore

log = structlog.get_logger()

MAX_HELD = 500
MAX_HELD_BYTES = 2 << 20
"""Credentials of callers kept in memory, and the size of what goes with them; beyond it those offered longest ago are dropped."""

_PAYERS = {
    TokenKind.OAUTH: "your Claude subscription",
    TokenKind.API_KEY: "your Anthropic API account, per use",
    TokenKind.LOGIN: "the account this machine's claude is logged in with",
    TokenKind.CLOUD: "your cloud account",
}

LoginCheck = Callable[[Mapping[str, str]], Awaitable[bool]]
"""Whether the claude CLI is logged in, given the environment it would run with. Raises LoginUnknown where that is unclear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a caller's jobs may use: fingerprints in order, and who pays, in words."""

    fingerprints: tuple[str, ...]
    payer: str


class MultiTokenManager:
    """Collects what callers offer and answers who holds what.

    Args:
        env_file: The user's own `.env`; read again whenever it changed.
        is_logged_in: Asked only when a caller offers nothing.
        on_change: Told every set of credentials held, for the keeper.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        database: StoreThread,
        env_file: Path,
        is_logged_in: LoginCheck,
        clock: Callable[[], int],
        on_change: Callable[[Sequence[Credential]], None],
    ) -> None:
        self._store = store
        self._database = database
        self._env_file = env_file
        self._is_logged_in = is_logged_in
        self._clock = clock
        self._on_change = on_change
        self._offered: dict[str, Credential] = {}
        self._own: dict[str, Credential] = {}
        self._own_found: list[tuple[str, str, str]] = []
        self._own_stamp: tuple[int, int] | None = None

    def held(self) -> frozenset[str]:
        """Fingerprints of the credentials in memory."""
        return frozenset(self._offered) | frozenset(self._own)

    def get(self, fingerprint: str) -> Credential | None:
        """The credential, secret included."""
        return self._own.get(fingerprint) or self._offered.get(fingerprint)

    async def restore(self, held: Sequence[Credential]) -> None:
        """Take back what the keeper kept over this worker's predecessor's death, and read the user's own file."""
        self._offered = {credential.fingerprint: credential for credential in held}
        await self.refresh()

    async def refresh(self) -> None:
        """Read the user's own `.env` again if it changed, and take logins into use again that were renewed.

        What is held is made known again: the store forgets what nobody has seen for long.
        """
        await self._read_own()
        await self._register(tuple(self._all()))
        await self._forgive()

    async def offer(self, caller: Caller) -> Offer:
        """Take what `caller` brings, in DESIGN's order, and say what its jobs may use and who pays.

        Raises:
            NoTokenAvailable: There is nothing at all, or nothing that is in use; the message says what to do.
            LoginUnknown: Whether there is a login could not be found out.
        """
        await self._read_own()
        found = await self._collect(caller)
        if not found:
            raise NoTokenAvailable(
                "No credential to run jobs with. Log in with `claude /login`, or put `claude setup-token`'s token into "
                f"CLAUDE_CODE_TOKEN (several: CLAUDE_CODE_TOKEN1, CLAUDE_CODE_TOKEN2, …) in {str(self._env_file)!r} or the environment."
            )
        await self.take(found)
        known = await self._forgive()
        refused = [state for c in found if (state := known.get(c.fingerprint)) is not None and state.quarantined]
        if len(refused) == len(found):
            raise _none_in_use(refused)
        usable = [c for c in found if c.fingerprint not in {state.fingerprint for state in refused}]
        return Offer(fingerprints=tuple(c.fingerprint for c in found), payer=_payer(usable))

    async def states(self) -> dict[str, TokenState]:
        """What is known about every token, by fingerprint."""
        return {state.fingerprint: state for state in await self._database(self._store.tokens)}

    async def note(self, fingerprint: str, note: TokenNote) -> None:
        """Remember what was learned about a credential, and about the same one with other private variables."""
        await self._database(self._store.note_token, fingerprint, note, self._clock())
        await self.tell_siblings(fingerprint, note)

    async def tell_siblings(self, fingerprint: str, note: TokenNote) -> None:
        """What was learned holds for the same credential with other private variables: it is one account. Best effort."""
        mine = self.get(fingerprint)
        if mine is None:
            return
        same = [c.fingerprint for c in self._all() if c.fingerprint != fingerprint and _account(c) == _account(mine)]
        try:
            for sibling in same:
                await self._database(self._store.note_token, sibling, note, self._clock())
        except StoreError as error:
            log.warning("tokens.siblings_not_told", fingerprint=fingerprint, code=error.code)

    def _all(self) -> Iterable[Credential]:
        return {**self._offered, **self._own}.values()

    async def _read_own(self) -> None:
        try:
            status = self._env_file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = (0, 0)
        if stamp == self._own_stamp:
            return
        self._own_found = rules.pick(_read_env(self._env_file))
        own = [_credential(item, ()) for item in self._own_found]
        await self._register(own)
        self._own = {credential.fingerprint: credential for credential in own}
        self._own_stamp = stamp
        log.info("tokens.own_file_read", fingerprints=sorted(self._own))

    async def _forgive(self) -> dict[str, TokenState]:
        """A login that was written since it was refused is another one; what is known about each token then.

        Where the CLI keeps its login in the system's keychain no file tells, and `tokens --restore` is the way.
        """
        states = await self.states()
        renewed = [
            credential.fingerprint
            for credential in self._all()
            if credential.kind is TokenKind.LOGIN
            and (state := states.get(credential.fingerprint)) is not None
            and state.quarantined
            and _written_ms(credential) > state.quarantined_ms
        ]
        for fingerprint in renewed:
            log.info("tokens.login_renewed", fingerprint=fingerprint)
            await self._database(self._store.note_token, fingerprint, TokenNote(restore=True), self._clock())
        return await self.states() if renewed else states

    def offered(self) -> tuple[Credential, ...]:
        """What callers brought; those offered longest ago first."""
        return tuple(self._offered.values())

    async def take(self, found: Sequence[Credential]) -> None:
        """Hold these from now on, and have the keeper hold them."""
        fresh = [credential for credential in found if credential.fingerprint not in self.held()]
        for credential in found:
            if credential.fingerprint not in self._own:
                self._offered.pop(credential.fingerprint, None)
                self._offered[credential.fingerprint] = credential
        if fresh:
            self._drop_oldest(keep=len(found))
            await self._register(fresh)
            self._on_change(self.offered())

    def _drop_oldest(self, keep: int) -> None:
        held = self._offered
        while len(held) > keep and (len(held) > MAX_HELD or _size(held.values()) > MAX_HELD_BYTES):
            del held[next(iter(held))]

    async def _collect(self, caller: Caller) -> list[Credential]:
        profile = profile_of(caller)
        if is_cloud(caller.profile):
            return [Credential(name="cloud profile", kind=TokenKind.CLOUD, profile=profile)]
        own = [] if caller.profile else self._own_found
        configured = [_credential(item, profile) for item in rules.chosen([*caller.credentials, *own])]
        if configured:
            return list({credential.fingerprint: credential for credential in configured}.values())
        if await self._is_logged_in({**dict(caller.env), **dict(caller.profile)}):
            return [Credential(name="claude login", kind=TokenKind.LOGIN, profile=_login_profile(caller))]
        last = rules.fallback(list(caller.credentials)) or rules.fallback(own)
        if not last:
            in_cwd = rules.pick(_read_env(Path(caller.cwd, ".env")))
            last = rules.chosen(in_cwd) or rules.fallback(in_cwd)
        return [_credential(item, profile) for item in last]

    async def _register(self, credentials: Sequence[Credential]) -> None:
        if credentials:
            rows = [(c.fingerprint, c.name, c.kind) for c in credentials]
            await self._database(self._store.register_tokens, rows, self._clock())


def profile_of(caller: Caller) -> Pairs:
    """What travels with a caller's credentials: whom they talk to, and what of its environment no file may hold."""
    return tuple(sorted({**dict(split(caller.env)[1]), **dict(caller.profile)}.items()))


def is_cloud(profile: Pairs) -> bool:
    """Whether Bedrock or Vertex is switched on: then the profile is all there is."""
    switches = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX")
    return any(name in switches and value.lower() not in {"", "0", "false"} for name, value in profile)


def _none_in_use(states: Sequence[TokenState]) -> NoTokenAvailable:
    logins = any(state.kind is TokenKind.LOGIN for state in states)
    renew = "Log in again with `claude /login`" if logins else "Offer another one as CLAUDE_CODE_TOKEN"
    return NoTokenAvailable(
        f"No credential is in use. {out_of_use(states)}. {renew}, or take one into use again that is good: "
        f"`claude-jobs tokens --restore {states[0].fingerprint}`."
    )


def _size(credentials: Iterable[Credential]) -> int:
    """Bytes of what goes with them; many go with the same."""
    return sum(len(json.dumps(profile)) for profile in {credential.profile for credential in credentials})


def _account(credential: Credential) -> str:
    return replace(credential, profile=doors(credential.profile)).fingerprint


def _written_ms(login: Credential) -> int:
    """When the CLI wrote its login there last; 0 where there is no such file."""
    try:
        return (config_dir(dict(login.profile)) / ".credentials.json").stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0


def _credential(item: tuple[str, str, str], profile: tuple[tuple[str, str], ...]) -> Credential:
    name, kind, secret = item
    return Credential(name=name, kind=TokenKind(kind), secret=secret, profile=profile)


def _login_profile(caller: Caller) -> tuple[tuple[str, str], ...]:
    """A login is identified by where it lives, so that two config directories are two tokens."""
    env = dict(caller.env)
    where = (
        ("CLAUDE_CONFIG_DIR", env["CLAUDE_CONFIG_DIR"])
        if env.get("CLAUDE_CONFIG_DIR")
        else ("HOME", env.get("HOME", "/"))
    )
    return tuple(sorted({**dict(profile_of(caller)), where[0]: where[1]}.items()))


def _payer(found: Sequence[Credential]) -> str:
    kinds = dict.fromkeys(credential.kind for credential in found)
    count = f"{len(found)} tokens: " if len(found) > 1 else ""
    return count + " and ".join(_PAYERS[kind] for kind in kinds)


def _read_env(path: Path) -> dict[str, str]:
    """Names and values of a `.env`; unreadable or hostile files are simply empty. Nothing is interpolated."""
    try:
        if not path.is_file() or path.stat().st_size > 256 * 1024:
            return {}
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: value for name, value in values.items() if value}
