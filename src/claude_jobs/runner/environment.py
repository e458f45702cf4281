"""Which of the submitter's variables a job gets: an allow-list. Pure; the environment comes in as an argument."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote

Pairs = tuple[tuple[str, str], ...]

_NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "VIRTUAL_ENV",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TERM",
        "IS_SANDBOX",
        "CLAUDE_CONFIG_DIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NO_PROXY",
        "no_proxy",
    ]
)
_LOGIN_PLACES = frozenset(["HOME", "CLAUDE_CONFIG_DIR"])
_PROXIES = frozenset(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"])
_PREFIXES = ("LC_", "XDG_", "GIT_AUTHOR_", "GIT_COMMITTER_")
_BASE_URLS = ("ANTHROPIC_BASE_URL",)
_CLOUDS = {
    "CLAUDE_CODE_USE_BEDROCK": (("ANTHROPIC_BEDROCK_BASE_URL", "CLAUDE_CODE_SKIP_BEDROCK_AUTH"), "AWS_"),
    "CLAUDE_CODE_USE_VERTEX": (
        (
            "ANTHROPIC_VERTEX_BASE_URL",
            "ANTHROPIC_VERTEX_PROJECT_ID",
            "CLAUDE_CODE_SKIP_VERTEX_AUTH",
            "CLOUD_ML_REGION",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_PROJECT",
            "GCLOUD_PROJECT",
        ),
        "VERTEX_REGION_",
    ),
}
SECRET_NAMES = frozenset(
    ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_OAUTH_REFRESH_TOKEN"]
)
"""Variables that are credentials of the CLI: an attempt gets exactly one, set by us."""


_SOUNDS_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL", re.IGNORECASE)
_LOGIN_IN_ADDRESS = re.compile(r"://[^/@:]*:([^/@]+)@")


def is_secret(name: str) -> bool:
    """Whether the variable is a Claude credential or an internal one of ours, never to be captured."""
    return (
        name in SECRET_NAMES or name.startswith("CLAUDE_JOBS_") or (name.startswith("CLAUDE_CODE_") and "TOKEN" in name)
    )


def capture(environ: Mapping[str, str], extra: Collection[str] = ()) -> Pairs:
    """The allow-listed variables, sorted.

    Args:
        extra: Further names the operator passes (CLAUDE_JOBS_PASS_ENV); a Claude credential is refused even then.
    """
    return _chosen(environ, _NAMES | _PROXIES | set(extra), _PREFIXES)


def split(captured: Pairs) -> tuple[Pairs, Pairs]:
    """What was captured, as (plain, private).

    Private variables may hold secrets, so they are kept in memory only, beside the credential that they go with: what
    the operator named himself (CLAUDE_JOBS_PASS_ENV), and a proxy's address with a user or password in it.
    """
    plain = tuple(pair for pair in captured if _is_plain(*pair))
    return plain, tuple(pair for pair in captured if not _is_plain(*pair))


def _is_plain(name: str, value: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES) or (name in _PROXIES and "@" not in value)


def doors(profile: Pairs) -> Pairs:
    """A credential's profile without what is private to its submitter: where it goes, and whose login it is."""
    own = capture_profile(dict(profile))
    return tuple(pair for pair in profile if pair in own or pair[0] in _LOGIN_PLACES)


def private(profile: Pairs) -> Pairs:
    """What of a credential's profile is not the credential's, but its submitter's."""
    own = doors(profile)
    return tuple(pair for pair in profile if pair not in own)


def secret_values(profile: Pairs) -> tuple[str, ...]:
    """What of these variables must not come out of a job: values whose name says so, and passwords in addresses.

    Not every private value: "production" in an answer is a word.
    """
    found: list[str] = []
    for name, value in profile:
        if _SOUNDS_SECRET.search(name):
            found.append(value)
        elif login := _LOGIN_IN_ADDRESS.search(value):
            found += {login[1], unquote(login[1])}
    return tuple(found)


def capture_profile(environ: Mapping[str, str]) -> Pairs:
    """The variables that say whom a credential talks to: base URL, Bedrock, Vertex. They travel with it, sorted.

    A cloud's own variables belong to it only where its switch is on: else they are somebody else's business.
    """
    names, prefixes = set(_BASE_URLS), tuple[str, ...]()
    for switch, (more, prefix) in _CLOUDS.items():
        if environ.get(switch, "").lower() not in {"", "0", "false"}:
            names |= {switch, *more}
            prefixes += (prefix,)
    return _chosen(environ, names, prefixes)


def _chosen(environ: Mapping[str, str], names: Collection[str], prefixes: tuple[str, ...]) -> Pairs:
    return tuple(
        sorted(
            (name, value)
            for name, value in environ.items()
            if (name in names or name.startswith(prefixes)) and not is_secret(name) and "\0" not in value
        )
    )
