"""What the shell asks of quotas, cache, circuits and the ledger. A job sees its quotas and the cache, and changes nothing."""

from __future__ import annotations

from claude_jobs.errors import NotPermitted
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Emit, Method
from claude_jobs.rpc.params import Params, number, string, strings, whole
from claude_jobs.services.oversight import Oversight
from claude_jobs.stores.gate import LedgerQuery

DEFAULT_ORG = "default"


def oversight_methods(oversight: Oversight) -> dict[str, Method]:
    """Their method table."""
    table = _Methods(oversight)
    return {
        "quotas": table.quotas,
        "set_quota": table.set_quota,
        "drop_quota": table.drop_quota,
        "cache": table.cache,
        "invalidate": table.invalidate,
        "explain": table.explain,
        "calls": table.calls,
        "usage": table.usage,
        "routes": table.routes,
        "restore_key": table.restore_key,
    }


class _Methods:
    def __init__(self, oversight: Oversight) -> None:
        self._oversight = oversight

    async def quotas(self, params: Params, hello: Hello, emit: Emit) -> object:
        return {"quotas": await self._oversight.quotas(string(params, "org") or DEFAULT_ORG)}

    async def set_quota(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        return await self._oversight.set_quota(
            scope=string(params, "scope") or "org",
            subject=string(params, "subject"),
            unit=string(params, "unit") or "tokens",
            limit=number(params, "limit", 0.0),
            window=string(params, "window") or "3600",
        )

    async def drop_quota(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        await self._oversight.drop_quota(string(params, "id"))
        return {}

    async def cache(self, params: Params, hello: Hello, emit: Emit) -> object:
        return await self._oversight.cache()

    async def invalidate(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        count = await self._oversight.invalidate(
            org=string(params, "org"),
            provider=string(params, "provider"),
            model=string(params, "model"),
            key=string(params, "key"),
        )
        return {"invalidated": count}

    async def explain(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        return await self._oversight.explain(string(params, "id"))

    async def calls(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        return {"calls": await self._oversight.calls(limit=whole(params, "limit") or 20, org=string(params, "org"))}

    async def usage(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        query = LedgerQuery(
            since_ms=whole(params, "since_ms") or 0,
            until_ms=whole(params, "until_ms") or 0,
            org=string(params, "org"),
            provider=string(params, "provider"),
            model=string(params, "model"),
            by=strings(params, "by") or LedgerQuery().by,
        )
        return {"text": await self._oversight.usage(query, string(params, "format") or "csv")}

    async def restore_key(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        await self._oversight.restore_key(string(params, "fingerprint"))
        return {}

    async def routes(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        return await self._oversight.routes()


def _check_outside(hello: Hello) -> None:
    if hello.inside_job:
        raise NotPermitted(
            "A job sees no calls of others, and changes no quota or cache. Ask your user to.", field="inside_job"
        )
