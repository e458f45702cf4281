"""Economy batches over HTTP."""

from __future__ import annotations

from pathlib import Path

from support_web import serving


async def test_a_batch_may_go_by_the_providers_batch_api(tmp_path: Path) -> None:
    items = [{"prompt": "a"}, {"prompt": "b", "provider": "qwen"}]
    async with serving(tmp_path) as served:
        body = {"items": items, "provider": "openai", "economy": True}
        told = (await served.post("/tools/batch_generate", **body)).json()
        refused = await served.post("/tools/batch_generate", items=items, economy="perhaps")
        paths = {request.provider: request.path for request in served.api.requests}

    assert [item["answer"]["provider"] for item in told["items"]] == ["openai", "qwen"]
    assert "note" not in told["items"][0]
    assert "no batch API" in told["items"][1]["note"]
    assert "batches" in paths["openai"]
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "economy"
