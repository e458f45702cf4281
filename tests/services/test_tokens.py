"""Whose token a job may use, in which order, and that no secret is ever written or shown."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from claude_jobs.domain.token import Credential, TokenKind, TokenNote
from claude_jobs.errors import LoginUnknown, NoTokenAvailable
from claude_jobs.policy import credentials
from claude_jobs.services import tokens
from claude_jobs.services.caller import Caller
from claude_jobs.services.database import StoreThread
from claude_jobs.services.tokens import MultiTokenManager
from claude_jobs.stores.memory import MemoryStore


class Desk:
    """A manager with what it told the keeper."""

    def __init__(self, root: Path, *, logged_in: bool | None = False) -> None:
        self.now_ms = 1_000
        self.kept: list[Sequence[Credential]] = []
        self.asked: list[Mapping[str, str]] = []
        self.root = root
        self.env_file = root / "state.env"
        self.store = MemoryStore()
        self.manager = MultiTokenManager(
            store=self.store,
            database=StoreThread(),
            env_file=self.env_file,
            is_logged_in=self._ask,
            clock=lambda: self.now_ms,
            on_change=self.kept.append,
        )
        self._logged_in = logged_in

    async def _ask(self, environ: Mapping[str, str]) -> bool:
        self.asked.append(environ)
        if self._logged_in is None:
            raise LoginUnknown("no telling")
        return self._logged_in

    async def names(self, **environ: str) -> list[str]:
        """Names of what a caller with this environment may use."""
        offer = await self.manager.offer(self.caller(**environ))
        found = [self.manager.get(fingerprint) for fingerprint in offer.fingerprints]
        return [credential.name for credential in found if credential]

    def caller(self, **environ: str) -> Caller:
        return Caller(cwd=str(self.root), submitter="uid:1", credentials=tuple(credentials.pick(environ)))


async def test_numbered_tokens_keep_their_natural_order_and_the_api_key_stays_out(tmp_path: Path) -> None:
    names = await Desk(tmp_path).names(
        CLAUDE_CODE_TOKEN10="t10",
        CLAUDE_CODE_TOKEN2="t2",
        CLAUDE_CODE_TOKEN="t",
        CLAUDE_CODE_OAUTH_TOKEN="o",
        ANTHROPIC_API_KEY="k",
    )

    assert names == ["CLAUDE_CODE_TOKEN", "CLAUDE_CODE_TOKEN2", "CLAUDE_CODE_TOKEN10", "CLAUDE_CODE_OAUTH_TOKEN"]


async def test_api_key_is_used_when_there_is_nothing_else_and_the_payer_is_named(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    offer = await desk.manager.offer(desk.caller(ANTHROPIC_API_KEY="k"))

    assert "API account" in offer.payer
    assert len(desk.asked) == 1


async def test_api_key_listed_as_token_is_pooled_as_an_api_key(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    offer = await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN1="sk-ant-api03-x", CLAUDE_CODE_TOKEN2="oat"))

    kinds = [credential.kind for fp in offer.fingerprints if (credential := desk.manager.get(fp))]
    assert kinds == [TokenKind.API_KEY, TokenKind.OAUTH]


async def test_login_is_a_token_of_its_own_only_without_configured_ones(tmp_path: Path) -> None:
    desk = Desk(tmp_path, logged_in=True)

    assert await desk.names() == ["claude login"]
    assert await desk.names(CLAUDE_CODE_TOKEN="t") == ["CLAUDE_CODE_TOKEN"]


async def test_nothing_at_all_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoTokenAvailable, match="claude setup-token"):
        await Desk(tmp_path).names()


async def test_an_unclear_login_never_makes_the_api_key_pay(tmp_path: Path) -> None:
    desk = Desk(tmp_path, logged_in=None)
    desk.env_file.write_text("ANTHROPIC_API_KEY=own\n")
    (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=here\n")

    with pytest.raises(LoginUnknown):
        await desk.names(ANTHROPIC_API_KEY="k")


async def test_api_key_of_the_users_own_file_is_the_last_fallback_of_his_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.env_file.write_text("ANTHROPIC_API_KEY=own\n")
    (tmp_path / ".env").write_text("CLAUDE_CODE_TOKEN=from-cwd\n")

    offer = await desk.manager.offer(desk.caller())

    assert [c.secret for fp in offer.fingerprints if (c := desk.manager.get(fp))] == ["own"]
    assert await desk.names(ANTHROPIC_API_KEY="k") == ["ANTHROPIC_API_KEY"]
    assert await desk.names(CLAUDE_CODE_TOKEN="t") == ["CLAUDE_CODE_TOKEN"]


async def test_api_key_of_the_users_own_file_is_not_used_beside_a_token_or_a_login(tmp_path: Path) -> None:
    desk = Desk(tmp_path, logged_in=True)
    desk.env_file.write_text("ANTHROPIC_API_KEY=own\n")
    with_login = await desk.names()
    desk.env_file.write_text("ANTHROPIC_API_KEY=own\nCLAUDE_CODE_TOKEN1=a\n")

    assert (with_login, await desk.names()) == (["claude login"], ["CLAUDE_CODE_TOKEN1"])


async def test_api_key_of_the_users_own_file_is_held_again_after_a_reboot(tmp_path: Path) -> None:
    (tmp_path / "state.env").write_text("ANTHROPIC_API_KEY=own\n")
    offer = await Desk(tmp_path).manager.offer(Desk(tmp_path).caller())
    later = Desk(tmp_path)

    await later.manager.restore(())

    assert later.manager.held() == set(offer.fingerprints)


async def test_env_file_of_the_working_directory_is_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CLAUDE_CODE_TOKEN=from-cwd\nCLAUDE_QUEUE_SIZE=1\nANTHROPIC_BASE_URL=http://evil\n")
    desk = Desk(tmp_path)

    offer = await desk.manager.offer(desk.caller())
    credential = desk.manager.get(offer.fingerprints[0])

    assert credential is not None
    assert (credential.secret, credential.profile) == ("from-cwd", ())
    assert await desk.names(CLAUDE_CODE_TOKEN="mine") == ["CLAUDE_CODE_TOKEN"]


async def test_users_own_file_is_pooled_and_read_again_when_it_changes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.env_file.write_text("CLAUDE_CODE_TOKEN1=a\n")
    first = await desk.names(CLAUDE_CODE_TOKEN="mine")
    desk.env_file.write_text("CLAUDE_CODE_TOKEN1=a\nCLAUDE_CODE_TOKEN2=b\n")

    assert first == ["CLAUDE_CODE_TOKEN", "CLAUDE_CODE_TOKEN1"]
    assert await desk.names(CLAUDE_CODE_TOKEN="mine") == [
        "CLAUDE_CODE_TOKEN",
        "CLAUDE_CODE_TOKEN1",
        "CLAUDE_CODE_TOKEN2",
    ]
    desk.env_file.unlink()
    assert await desk.names(CLAUDE_CODE_TOKEN="mine") == ["CLAUDE_CODE_TOKEN"]


async def test_cloud_profile_is_the_only_offer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    caller = dataclasses.replace(
        desk.caller(CLAUDE_CODE_TOKEN="t"), profile=(("AWS_REGION", "eu-1"), ("CLAUDE_CODE_USE_BEDROCK", "1"))
    )

    offer = await desk.manager.offer(caller)

    assert [c.kind for fp in offer.fingerprints if (c := desk.manager.get(fp))] == [TokenKind.CLOUD]
    assert offer.payer == "your cloud account"


async def test_keeper_is_told_new_credentials_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    await desk.names(CLAUDE_CODE_TOKEN="t")
    await desk.names(CLAUDE_CODE_TOKEN="t")

    assert [[credential.secret for credential in kept] for kept in desk.kept] == [["t"]]


async def test_held_credentials_come_back_from_the_keeper(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    credential = Credential(name="CLAUDE_CODE_TOKEN", kind=TokenKind.OAUTH, secret="t")

    await desk.manager.restore([credential])

    assert desk.manager.held() == {credential.fingerprint}
    assert (await desk.manager.states())[credential.fingerprint].name == "CLAUDE_CODE_TOKEN"


async def test_what_is_held_is_not_forgotten_however_long_no_front_comes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    offer = await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN="t"))
    desk.now_ms += 10**10

    await desk.manager.refresh()
    desk.store.prune(desk.now_ms)

    assert tuple(await desk.manager.states()) == offer.fingerprints


def test_no_secret_in_any_representation() -> None:
    credential = Credential(
        name="N", kind=TokenKind.OAUTH, secret="top-secret", profile=(("AWS_SECRET_ACCESS_KEY", "aws-secret"),)
    )
    caller = Caller(cwd="/", submitter="u", credentials=(("N", "oauth", "top-secret"),), profile=credential.profile)

    assert "secret" not in repr(credential).replace("AWS_SECRET", "").lower()
    assert "top-secret" not in repr(caller)


def test_same_token_under_another_base_url_is_another_token() -> None:
    plain = Credential(name="N", kind=TokenKind.OAUTH, secret="t")
    elsewhere = dataclasses.replace(plain, profile=(("ANTHROPIC_BASE_URL", "http://127.0.0.1:1"),))

    assert plain.fingerprint != elsewhere.fingerprint


async def quarantine(desk: Desk, fingerprint: str, why: str = "401 from the API.") -> None:
    desk.now_ms += 1
    await desk.manager.note(fingerprint, TokenNote(quarantine=why))


async def test_only_quarantined_credentials_are_refused_with_cause_and_remedy_but_held(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    one, two = (await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN1="a", CLAUDE_CODE_TOKEN2="b"))).fingerprints
    await quarantine(desk, one)
    with_one = await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN1="a", CLAUDE_CODE_TOKEN2="b"))
    await quarantine(desk, two, "no credit left")

    with pytest.raises(NoTokenAvailable, match="--restore") as refused:
        await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN1="a", CLAUDE_CODE_TOKEN2="b"))

    assert (with_one.fingerprints, with_one.payer) == ((one, two), "your Claude subscription")
    assert (
        f"CLAUDE_CODE_TOKEN1 ({one}): 401 from the API; CLAUDE_CODE_TOKEN2 ({two}): no credit" in refused.value.message
    )
    assert desk.manager.held() == {one, two}


async def test_a_new_token_beside_a_quarantined_one_is_taken(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (old,) = (await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN="old"))).fingerprints
    await quarantine(desk, old)

    offer = await desk.manager.offer(desk.caller(CLAUDE_CODE_TOKEN="new"))

    assert old not in offer.fingerprints


@pytest.mark.parametrize("where", ["HOME", "CLAUDE_CONFIG_DIR"])
async def test_a_login_that_was_renewed_is_in_use_again(tmp_path: Path, where: str) -> None:
    desk = Desk(tmp_path, logged_in=True)
    login = tmp_path / (".claude" if where == "HOME" else "") / ".credentials.json"
    login.parent.mkdir(exist_ok=True)
    login.write_text("{}")
    os.utime(login, (1, 1))
    caller = dataclasses.replace(desk.caller(), env=((where, str(tmp_path)),))
    (fingerprint,) = (await desk.manager.offer(caller)).fingerprints
    await quarantine(desk, fingerprint)
    with pytest.raises(NoTokenAvailable, match="claude /login"):
        await desk.manager.offer(caller)
    await desk.manager.refresh()
    before = (await desk.manager.states())[fingerprint].quarantined

    os.utime(login, (2, 2))
    await desk.manager.refresh()

    assert before == "401 from the API."
    assert (await desk.manager.states())[fingerprint].quarantined == ""
    assert (await desk.manager.offer(caller)).fingerprints == (fingerprint,)


PROXY = "http://me:pass-word@proxy:3128"
PRIVATE = (("GITHUB_TOKEN", "gh-secret"), ("HTTPS_PROXY", PROXY))


async def test_private_variables_go_with_every_credential_and_with_no_file(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.env_file.write_text("CLAUDE_CODE_TOKEN2=b\n")
    caller = dataclasses.replace(
        desk.caller(CLAUDE_CODE_TOKEN1="a"), env=(*PRIVATE, ("HTTP_PROXY", "http://proxy:3128"), ("PATH", "/bin"))
    )

    offer = await desk.manager.offer(caller)
    found = [credential for fp in offer.fingerprints if (credential := desk.manager.get(fp))]

    assert [(c.secret, c.profile) for c in found] == [("a", PRIVATE), ("b", PRIVATE)]
    assert desk.kept[-1] == tuple(found)
    assert set(await desk.names(CLAUDE_CODE_TOKEN1="a")) == {"CLAUDE_CODE_TOKEN1", "CLAUDE_CODE_TOKEN2"}
    assert not [secret for secret in ("gh-secret", "pass-word") if secret in repr((caller, found))]


async def test_what_is_learned_holds_for_the_same_account_with_other_private_variables(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    plain = desk.caller(CLAUDE_CODE_TOKEN="a")
    callers = [plain, *(dataclasses.replace(plain, env=(("GITHUB_TOKEN", value),)) for value in ("x", "y"))]
    elsewhere = dataclasses.replace(plain, profile=(("ANTHROPIC_BASE_URL", "http://127.0.0.1:1"),))
    same = [(await desk.manager.offer(caller)).fingerprints[0] for caller in callers]
    others = [(await desk.manager.offer(c)).fingerprints[0] for c in (elsewhere, desk.caller(CLAUDE_CODE_TOKEN="b"))]

    await quarantine(desk, same[1])
    states = await desk.manager.states()

    assert len(set(same)) == 3
    assert all(states[fingerprint].quarantined for fingerprint in same)
    assert not any(states[fingerprint].quarantined for fingerprint in others)


async def test_what_is_held_is_bounded_and_the_latest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_HELD_BYTES", 2_500)
    desk = Desk(tmp_path)
    plain = desk.caller(CLAUDE_CODE_TOKEN1="a", CLAUDE_CODE_TOKEN2="b")
    offers = [
        (await desk.manager.offer(dataclasses.replace(plain, env=(("BIG", letter * 1_000),)))).fingerprints
        for letter in "xyz"
    ]
    huge = await desk.manager.offer(dataclasses.replace(plain, env=(("BIG", "q" * 10_000),)))

    assert desk.kept[2][0].fingerprint == offers[1][0]
    assert desk.manager.held() == set(huge.fingerprints)
