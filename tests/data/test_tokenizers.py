"Words read by several people at once."

from concurrent.futures import ThreadPoolExecutor

from mvl_bench.data import tokenizers as text
from mvl_bench.data.factory import make_tokenizer
from mvl_bench.data.scenes import Scenes

CAPTIONS = list(Scenes(seed=0).captions(200))


class Watched:
    "A tokenizer that notes whether it is read by one alone."

    def __init__(self, tokenizer):
        self.tokenizer, self.alone = tokenizer, []

    def __call__(self, *given, **asked):
        self.alone.append(text.READING.locked())
        return self.tokenizer(*given, **asked)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_one_reads_at_a_time():
    tokenizer = Watched(make_tokenizer(Scenes()))
    text.encode(tokenizer, CAPTIONS[:4], 24)
    text.chips(tokenizer, CAPTIONS[0], 24)
    assert tokenizer.alone == [True, True] and not text.READING.locked()


def test_several_threads_may_read_with_one_tokenizer():
    tokenizer = make_tokenizer(Scenes())

    def read(i):  # batches and chips, as the board and the tabs ask for them
        some = CAPTIONS[i % 200 : i % 200 + 4]
        if i % 2:
            return [chip.text for chip in text.chips(tokenizer, some[0], 24)]
        return text.encode(tokenizer, some, 24).input_ids.tolist()

    with ThreadPoolExecutor(4) as pool:
        joint = list(pool.map(read, range(2000)))
    assert joint == [read(i) for i in range(2000)]
