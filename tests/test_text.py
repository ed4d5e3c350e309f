"Words read by several people at once."

from concurrent.futures import ThreadPoolExecutor

import pytest

from mvl_bench import text
from mvl_bench.data import make_tokenizer
from mvl_bench.scenes import Scenes

CAPTIONS = list(Scenes(seed=0).captions(200))


class NoLock:
    "Lets everybody in."

    def __enter__(self):
        pass

    def __exit__(self, *told):
        pass


def read_at_once():
    "Batches and chips by the same tokenizer from four threads, as the page's tabs ask for them."
    tokenizer = make_tokenizer(Scenes())

    def read(i):
        some = CAPTIONS[i % 200 : i % 200 + 4]
        if i % 2:
            return [chip.text for chip in text.chips(tokenizer, some[0], 24)]
        return text.encode(tokenizer, some, 24).input_ids.tolist()

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(read, range(4000))), [read(i) for i in range(4000)]


def test_several_threads_may_read_with_one_tokenizer(monkeypatch):
    at_once, one_by_one = read_at_once()
    assert at_once == one_by_one
    monkeypatch.setattr(text, "READING", NoLock())  # the planted fault
    with pytest.raises((RuntimeError, ValueError)):  # refused, or padded as the other wanted it
        for _ in range(5):
            read_at_once()
