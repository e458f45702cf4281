"""Six kinds of text, made the same every time, and how many o200k tokens they are.

The counts come from quicktok-v1 0.4.0 (`get_encoding("o200k_base").count(text)`), whose counts equal tiktoken's.
`python tests/policy/token_texts.py`, in an environment that has quicktok-v1, prints them anew.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from typing import Any


class Draws:
    """Draws that are the same on every Python: hashes of a counter."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._drawn = 0

    def number(self, below: int) -> int:
        self._drawn += 1
        digest = hashlib.sha256(f"{self._seed}:{self._drawn}".encode()).digest()
        return int.from_bytes(digest[:8]) % below

    def one(self, of: Sequence[str]) -> str:
        return of[self.number(len(of))]


def _sentences(seed: str, count: int, *parts: str) -> Iterator[str]:
    draws = Draws(seed)
    choices = [part.split("|") for part in parts]
    for _ in range(count):
        yield "".join(draws.one(choice) for choice in choices)


def english() -> str:
    return " ".join(
        _sentences(
            "english",
            80,
            "The old harbour|A narrow street|Her younger brother|The committee|This small experiment|Nobody in the village",
            " was built| had been waiting| seemed to change| could not be trusted| returned| went on"
            "| remained almost invisible",
            " before the winter| after a long and quiet summer| because of the weather| in spite of every warning"
            "| while the others slept",
            ", although the letters said otherwise.|, and that was the whole explanation.|."
            "|; one has to imagine the surprise.|, which is why we measured it again.",
        )
    )


def python() -> str:
    draws = Draws("python")
    nouns = ("job", "token", "lease", "window", "request", "counter", "usage")
    verbs = ("read", "admit", "settle", "merge", "find_next", "render")
    blocks: list[str] = []
    for number in range(40):
        verb, noun, other = draws.one(verbs), draws.one(nouns), draws.one(nouns)
        blocks.append(
            f"def {verb}_{noun}({noun}s: list[{noun.title()}], *, limit: int = {draws.number(500)}) -> int:\n"
            f'    """How many of the {noun}s there are after the {other} was taken."""\n'
            f"    total = 0\n"
            f"    for index, {noun} in enumerate({noun}s):\n"
            f"        if {noun}.{other}_id is None or {noun}.size > limit:\n"
            f'            raise ValueError(f"no {other} for {{{noun}!r}} at {{index}}")\n'
            f"        total += self._{other}s[{noun}.key].get('{draws.one(nouns)}', {number})\n"
            f"    return max(total, {draws.number(9000)})\n"
        )
    return "\n\n".join(blocks)


def json_text() -> str:
    draws = Draws("json")
    rows = [
        {
            "id": hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest(),
            "user": {"name": draws.one(("ana", "boris", "chen", "dalia")), "age": draws.number(80)},
            "amount": draws.number(10**6) / 100,
            "created_at": f"2026-11-{1 + draws.number(28):02}T{draws.number(24):02}:{draws.number(60):02}:00Z",
            "tags": [draws.one(("urgent", "paid", "draft")), draws.one(("north", "south"))],
            "active": draws.number(2) == 0,
        }
        for number in range(60)
    ]
    return json.dumps(rows)


def chinese() -> str:
    return "".join(
        _sentences(
            "chinese",
            100,
            "这个系统|昨天的会议|我们的新同事|数据库|城市里的老房子|第一个实验|春天的天气",
            "已经|一直|往往|突然|不得不|逐渐",
            "改变了大家的想法|需要重新检查|变得非常重要|影响了项目的进度|没有得到足够的关注|提高了工作的效率",
            "，因为时间不够。|，所以结果并不理想。|。|，但是没有人知道原因。|，这让所有人都感到意外。",
        )
    )


def russian() -> str:
    return " ".join(
        _sentences(
            "russian",
            80,
            "Старый дом на берегу|Новый сотрудник|Вчерашнее собрание|Система хранения данных|Весенняя погода|Первый опыт",
            " постепенно| неожиданно| уже давно| почти всегда| снова",
            " изменил наше мнение| требует внимательной проверки| влияет на работу| остаётся важной частью проекта"
            "| вызывает вопросы",
            ", потому что времени было мало.|, но никто не знает причины.|.|, и это удивило всех присутствующих."
            "|; результаты мы опубликуем позже.",
        )
    )


def logs() -> str:
    draws = Draws("logs")
    lines = (
        f"2026-11-21T{number // 60:02}:{number % 60:02}:{draws.number(60):02}.{draws.number(1000):03}Z "
        f"{draws.one(('INFO', 'WARN', 'ERROR', 'DEBUG'))} [worker-{draws.number(16)}] "
        f"{draws.one(('http.server', 'store.sqlite', 'jobs.manager'))}: request_id={draws.number(2**32):08x} "
        f"took={draws.number(9000)}ms status={200 + draws.number(4) * 101} path=/api/v1/jobs/{draws.number(10**6)} "
        f"client=10.0.{draws.number(256)}.{draws.number(256)}:{1024 + draws.number(60000)}"
        for number in range(150)
    )
    return "\n".join(lines)


TEXTS = {
    "english": english,
    "python": python,
    "json": json_text,
    "chinese": chinese,
    "russian": russian,
    "logs": logs,
}
REFERENCE: dict[str, tuple[str, int]] = {
    "english": ("6d6d97e2", 1310),
    "python": ("241d3bd1", 4352),
    "json": ("3860cff7", 4886),
    "chinese": ("eb101c71", 1528),
    "russian": ("7d0f95f1", 1289),
    "logs": ("fc3ec2af", 9225),
}
"""The first eight hex digits of each text's SHA-256, and its o200k tokens."""


def _print_counts() -> None:
    quicktok: Any = importlib.import_module("quicktok")
    o200k = quicktok.get_encoding("o200k_base")
    for kind, make in TEXTS.items():
        text = make()
        print(f'    "{kind}": ("{hashlib.sha256(text.encode()).hexdigest()[:8]}", {o200k.count(text)}),')


if __name__ == "__main__":
    _print_counts()
