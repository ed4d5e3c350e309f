"Retrieval: ranks by hand, matching by what the model says of each pair, every true caption counts."

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from contract import TOKENIZER, one_thread, small  # noqa: F401
from datasets import Dataset
from samples import drawing, encoded
from torch.nn.functional import cosine_similarity

import mvl_bench as mvl
from mvl_bench.apps.cli.main import main
from mvl_bench.core import Pair, PairSource, UserError
from mvl_bench.data.factory import open_data
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.evaluation.retrieval import (
    by_chance,
    evaluate_retrieval,
    false_negatives,
    gallery,
    matches,
    recalls,
    reordered,
    vectors_of,
)
from mvl_bench.models.base import save
from mvl_bench.models.registry import load
from mvl_bench.training.resume import read_run
from mvl_bench.training.runner import run_training

WORLD = Scenes("shapes", "val", img_size=(24, 32))


class ExampleText(PairSource):
    "Three pictures with two captions each, the last of which two pictures share."

    def pair(self, i):
        return WORLD.pair(i)._replace(caption=self.all_captions(i)[0])

    def all_captions(self, i):
        return (f"a red circle {i}", "a blue star" if i else "a green ring")

    length = 3


@pytest.fixture(scope="module")
def model():
    return small("maskvlm", itc=1.0, itm=1.0, proj_dim=16)


def test_every_true_caption_counts(model):
    found = gallery(model, ExampleText())
    assert len(found.pictures) == 3 and len(found.captions) == 6
    assert found.picture.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.right.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 1],
    ]
    assert false_negatives(found) == (2, 12)  # the star of each of two, asked of the other
    assert found.captions.item.tolist() == [i for i in found.pictures.item.tolist() for _ in "ab"]


def test_scenes_that_are_told_alike(model):
    found = gallery(model, WORLD, 60)
    told = [set(WORLD.all_captions(i)) for i in range(60)]
    for i in range(60):
        for j in range(60):
            assert found.right[i, j] == (WORLD.pair(j).caption in told[i])


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.2, 0.2], [0.1, 0.3, 0.2]])
    right = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 1, 0]]).bool()  # ranks 2, 3 (all tie), 1
    assert recalls(scores, right, (1, 2, 3)) == pytest.approx(
        {"r@1": 1 / 3, "r@2": 2 / 3, "r@3": 1}
    )
    assert by_chance(torch.eye(10).bool(), 3) == pytest.approx(0.3)
    assert by_chance(torch.ones(2, 4).bool(), 1) == 1 and by_chance(right, 5) == 1


def test_vectors_rank_and_matching_reorders(model):
    found = gallery(model, WORLD, 9)
    image, text = vectors_of(model, found, batch_size=4)
    rows, others = torch.arange(9).repeat_interleave(9), torch.arange(9).repeat(9)
    mixed = [
        Pair(WORLD.pair(r).image, WORLD.pair(o).caption, 0, 0)
        for r, o in zip(rows.tolist(), others.tolist())
    ]
    with torch.inference_mode():
        said = model.features(collate(mixed, TOKENIZER, model.cfg.text.max_text_len))
    expected = cosine_similarity(said.image_vector, said.text_vector).view(9, 9)
    torch.testing.assert_close(image @ text.T, expected, rtol=1e-4, atol=1e-5)
    logits = matches(model, found, rows, others, batch_size=20)
    torch.testing.assert_close(logits, said.match, rtol=1e-4, atol=1e-5)
    for scores, table, ask in (
        (expected, logits.view(9, 9), True),
        (expected.T, logits.view(9, 9).T, False),
    ):
        again = reordered(model, found, scores, 4, ask)
        for q in range(9):
            first = scores[q].topk(4).indices.tolist()
            both = table[q] + scores[q] / model.contrast.temperature.item()
            rest = [c for c in scores[q].argsort(descending=True).tolist() if c not in first]
            for way, by in dict(itm=table[q], sum=both).items():
                by_match = sorted(first, key=lambda c: -by[c].item())
                assert again[way][q].argsort(descending=True).tolist() == by_match + rest


def test_a_model_that_matches_without_parts(model):
    "MLIM reads pairs whole: the slow way agrees with its features."
    mlim = small("mlim", itm=1.0)
    found = gallery(mlim, WORLD, 5)
    rows, others = torch.tensor([0, 3, 4]), torch.tensor([1, 3, 0])
    mixed = [
        WORLD.pair(r)._replace(caption=WORLD.pair(o).caption)
        for r, o in zip(rows.tolist(), others.tolist())
    ]
    with torch.inference_mode():
        said = mlim.features(collate(mixed, TOKENIZER, mlim.cfg.text.max_text_len)).match
    torch.testing.assert_close(matches(mlim, found, rows, others), said, rtol=1e-4, atol=1e-5)


def test_from_the_command_line(model, tmp_path, capfd):
    save(model, TOKENIZER, tmp_path / "one")
    words = f"evaluate --task retrieval --checkpoint {tmp_path}/one --data scenes:shapes --limit 30"
    assert main(shlex.split(f"{words} --json {tmp_path}/n.json")) == 0
    out, scores = capfd.readouterr().out, json.loads((tmp_path / "n.json").read_text())
    assert "image to text, ITC then both" in out and "by chance" in out
    for way in ("image_to_text", "text_to_image"):
        assert scores[way].keys() == {"r@1", "r@5", "r@10", "chance", "itc", "itm"}
        assert 0 <= scores[way]["r@1"] <= scores[way]["r@5"] <= scores[way]["r@10"] <= 1
    assert scores["n"] == 30 and 0.03 < scores["chance"] < 0.1
    save(small(), TOKENIZER, tmp_path / "plain")
    assert main(shlex.split(words.replace("/one", "/plain"))) == 2
    assert "losses.itc" in capfd.readouterr().err


def test_what_cannot_be_ranked(model):
    with pytest.raises(UserError, match="two or more"):
        gallery(model, WORLD, 1)
    with pytest.raises(UserError, match="losses.itc"):
        evaluate_retrieval(small("mlim"), WORLD, 4)


def test_fine_tuning_is_contrast_and_matching_alone(home, capfd):
    begun = small("maskvlm", itc=1.0, itm=1.0, proj_dim=16)
    save(begun, TOKENIZER, home / "begun", {})  # 24 x 32 pixels, which no preset has
    words = "finetune --task retrieval --checkpoint begun --data photos --steps 2 --out tuned"
    few = ["--set", "batch_size=5", "log_every=1", "probe_every=0", "workers=0"]
    assert main([*words.split(), *few]) == 0
    log = [json.loads(line) for line in (home / "tuned" / "log.jsonl").read_text().splitlines()]
    assert all({"itc", "itm"} <= row.keys() and not {"mlm", "recon"} & row.keys() for row in log)
    tuned = load(home / "tuned")
    assert tuned.cfg.image.img_size == begun.cfg.image.img_size
    moved = [n for n, x in begun.state_dict().items() if not x.equal(tuned.state_dict()[n])]
    assert any("text_encoder" in name for name in moved)
    assert not any("to_words" in name or "decoder" in name for name in moved)
    shutil.rmtree(home / "begun")  # a run goes on without what it began with
    run = read_run(home / "tuned")
    run_training(
        replace(run, training=replace(run.training, steps=3)), resume=True, quiet=True, changed=True
    )
    assert load(home / "tuned").facts["steps"] == 3
    assert load(home / "tuned").cfg.image.img_size == begun.cfg.image.img_size
    ask = "evaluate --task retrieval --data photos --checkpoint tuned"
    assert main(ask.split()) == 0 and "by ITC alone" in capfd.readouterr().out
    for wrong, rule in (
        ("--checkpoint mlim-tiny", "mlim makes none"),
        ("--items a.csv", "--items is for tasks with labels"),
        ("--set batch_size=64", "64"),
    ):
        assert (
            main(
                [
                    *words.replace("begun", "tuned").replace("--out tuned", "--out other").split(),
                    *wrong.split(),
                ]
            )
            == 2
        )
        said = capfd.readouterr().err.strip().splitlines()[-1]
        assert rule in said and not (home / "other").exists()


def test_rows_of_one_picture_are_one_picture_with_all_its_captions(tmp_path):
    "The same pictures as lists of captions and as one row a caption score the same; one picture cannot be ranked."
    colours, said = ("red", "green", "blue", "yellow"), ("a {} ball", "the ball is {}", "{} it is")
    files = {colour: encoded(drawing(colour, (64, 64))) for colour in colours}
    lists = [dict(image=files[c], captions=[s.format(c) for s in said]) for c in colours]
    rows = [dict(image=files[c], caption=s.format(c)) for c in colours for s in said]
    same = [dict(image=files["red"], caption=s.format("red")) for s in said]
    for name, table in dict(lists=lists, rows=rows, turned=rows[::-1], same=same).items():
        Dataset.from_list(table).to_parquet(tmp_path / f"{name}.parquet")
    model = small(itc=1.0, itm=1.0)
    size = model.cfg.image.img_size
    pools = {
        n: gallery(model, open_data(str(tmp_path / f"{n}.parquet"), size))
        for n in ("lists", "rows", "turned")
    }
    assert [len(p.pictures) for p in pools.values()] == [4] * 3
    assert [p.right.sum(1).tolist() for p in pools.values()] == [[3] * 4] * 3
    first, second = (
        evaluate_retrieval(model, open_data(str(tmp_path / f"{n}.parquet"), size))
        for n in ("lists", "rows")
    )
    assert first == second and first["n"] == 4 and first["captions"] == 12
    limited = gallery(model, open_data(str(tmp_path / "rows.parquet"), size), limit=2)
    assert len(limited.pictures) == 2 and len(limited.captions) == 6
    with pytest.raises(UserError, match="1 distinct pictures in 3 rows"):
        gallery(model, open_data(str(tmp_path / "same.parquet"), size))


def test_what_is_not_finite_scores_nothing(tmp_path):
    scores = torch.tensor([[0.5, torch.nan], [0.1, 0.2]])
    with pytest.raises(UserError, match="1 of 4 scores are not finite"):
        recalls(scores, torch.eye(2).bool())
    model = small(itc=1.0)
    with torch.no_grad():
        next(model.image_encoder.parameters()).view(-1)[0] = torch.nan
    for call in (
        lambda: mvl.evaluate(model, task="retrieval", data="scenes", limit=4, quiet=True),
        lambda: mvl.evaluate(model, data="scenes", limit=4, quiet=True),
    ):
        with pytest.raises(UserError, match="not finite") as caught:
            call()
        assert "\n" not in str(caught.value)
    model.save_pretrained(tmp_path / "sick")
    with pytest.raises(UserError, match="not finite: the run diverged"):
        mvl.load(tmp_path / "sick")
