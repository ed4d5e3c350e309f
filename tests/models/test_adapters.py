"Other people's models beside the plain library: same weights, masks and inputs, same numbers; and what they lack is said."

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import TOKENIZER, check_hidden_is_hidden, odd_views, small, some_batch
from PIL import Image
from safetensors.torch import load_file

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError, update, view
from mvl_bench.data.scenes import Scenes
from mvl_bench.evaluation.reconstruction import evaluate_reconstruction
from mvl_bench.inference.reconstruction import reconstruct_pair
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.base import save
from mvl_bench.models.vilt_vitmae import ViLT, ViTMAE

CLOSE = dict(rtol=1e-5, atol=1e-5)
SQUARE = dict(img_size=(24, 24))
LACKS = dict(vitmae="never sees the caption", vilt="no part that paints pixels")
TINY = "embed_dim=32 num_heads=2 depth=1 img_size=32 batch_size=2 precision=fp32"
SIZES = dict(vitmae=f"{TINY} decoder_dim=32 decoder_heads=2 decoder_depth=1", vilt=TINY)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    "Small matrices are quickest on one thread; pictures are square."
    monkeypatch.setitem(small.__globals__["SMALL"], "img_size", SQUARE["img_size"])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the plain library


def shaken(model):
    "The same model with every weight moved, tables of positions too."
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def plain_mae(model, images, masked):
    "The library's own answer and loss, in its own units, for rows that hide as many patches."
    shown = (~masked[0]).sum().item()
    model.net.config.mask_ratio = 1 - (shown + 0.5) / masked.shape[1]
    pixels = (images - model.cfg.image.image_mean) / model.cfg.image.image_std
    return model.net(pixels, noise=masked.float())


@torch.no_grad()
def check_mae(model, batch, masks):
    "Each row alone through the plain library; then all rows that hide as many."
    scale = model.cfg.image.image_std
    painted = model(batch, masks).pixels
    for row, masked in enumerate(masks.image_mask):
        alone = plain_mae(model, batch.images[[row]], masked[None])
        assert alone.mask[0].bool().equal(masked)
        expected = alone.logits[0] * scale + model.cfg.image.image_mean
        torch.testing.assert_close(painted[row], expected, **CLOSE)
        if masked.any():
            loss = model.losses(batch.rows([row]), (masks.rows([row]),)).parts["recon"]
            torch.testing.assert_close(loss, alone.loss * scale**2, **CLOSE)


def counts_of(batch, n):
    "A view whose rows hide nothing, one patch, some, more, all but one, everything."
    order = torch.rand(len(batch), n).argsort(1).argsort(1)
    return view(batch, n, order < torch.tensor([0, 1, 3, 6, n - 1, n])[:, None])


def test_vitmae_is_the_library_whatever_each_row_hides():
    model, batch = shaken(small("vitmae", image_mean=0.6, image_std=0.3)), some_batch()
    check_mae(model, batch, counts_of(batch, 9))

    class Shifted(ViTMAE):
        "Puts a row's [MASK] vectors one place further."

        def encode(self, images, masked):
            found = super().encode(images, masked)
            found.ids_restore = found.ids_restore.roll(1, 1)
            return found

    model.__class__ = Shifted
    with pytest.raises(AssertionError):
        check_mae(model, batch, counts_of(batch, 9))


def plain_vilt(model, batch, masks, labels=None):
    "The library's own answer to pictures with nothing hidden, given as pixels."
    ids = batch.input_ids.masked_fill(masks.text_mask, model.cfg.text.mask_id)
    pixels = (batch.images - model.cfg.image.image_mean) / model.cfg.image.image_std
    return model.net(ids, batch.attention_mask, pixel_values=pixels, labels=labels)


@torch.no_grad()
def test_vilt_is_the_library_with_pixels_and_with_patches_left_out():
    model, batch = shaken(small("vilt", image_mean=0.6, image_std=0.3)), some_batch()
    words = batch.maskable & (torch.arange(batch.maskable.shape[1]) % 3 == 1)
    whole = view(batch, 9, None, words)
    labels = batch.input_ids.masked_fill(~words, -100)
    theirs = plain_vilt(model, batch, whole, labels)
    torch.testing.assert_close(model(batch, whole).word_logits, theirs.logits, **CLOSE)
    torch.testing.assert_close(model.losses(batch, (whole,)).parts["mlm"], theirs.loss, **CLOSE)
    masked = replace(whole, image_mask=counts_of(batch, 9).image_mask)
    ours, tokens = model(batch, masked).word_logits, model.embed(batch.images)
    ids = batch.input_ids.masked_fill(words, model.cfg.text.mask_id)
    for row, mask in enumerate(masked.image_mask):
        seen = torch.cat([torch.tensor([True]), ~mask])
        few = dict(image_embeds=tokens[[row]][:, seen], pixel_mask=torch.ones(1, seen.sum()).long())
        alone = model.net(ids[[row]], batch.attention_mask[[row]], **few).logits[0]
        torch.testing.assert_close(ours[row], alone, **CLOSE)
    model.cfg = update(model.cfg, image_std=0.29)  # the comparison is not blind
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(batch, whole).word_logits, theirs.logits, **CLOSE)


# ---- what they lack


@torch.no_grad()
def test_vitmae_never_sees_a_caption():
    model, batch = small("vitmae"), some_batch()
    masks = counts_of(batch, 9)
    before = model(batch, masks).pixels
    other = replace(batch, input_ids=batch.input_ids.flip(0))
    for shown in (batch, other):
        for masked in (masks, without_text(masks)):
            assert model(shown, masked).pixels.equal(before)
    assert not model(replace(batch, images=1 - batch.images), masks).pixels.equal(before)


@torch.no_grad()
def test_an_absent_side_is_one_that_is_wholly_hidden():
    "Both libraries have no other word for it."
    batch = some_batch()
    everything = view(batch, 9, torch.ones(len(batch), 9, dtype=torch.bool))
    nothing = view(batch, 9)
    mae, vilt = small("vitmae"), small("vilt")
    assert mae(batch, everything).pixels.equal(mae(batch, without_image(nothing)).pixels)
    absent = without_image(nothing)
    assert vilt(batch, everything).word_logits.equal(vilt(batch, absent).word_logits)


def test_positions_tell_one_hidden_patch_from_another():
    "The library leaves them at zero: a [MASK] would be painted the same everywhere."
    model, batch = small("vitmae"), some_batch()
    with torch.no_grad():
        painted = model(batch, view(batch, 9, torch.ones(6, 9, dtype=torch.bool))).pixels
    assert painted[0].std(0).max() > 1e-3


def test_vitmae_learns_from_a_picture_that_is_hidden_whole():
    "The library leaves the class token at zero, whose norm has no finite gradient some blocks deep."

    def finite(model):
        model.losses(batch, (view(batch, 9, masked),)).parts["recon"].backward()
        return all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    batch, masked = some_batch(), torch.ones(6, 9, dtype=torch.bool)
    assert finite(small("vitmae", depth=8))
    planted = small("vitmae", depth=8)
    planted.net.vit.embeddings.cls_token.data.zero_()
    assert not finite(planted)


def test_vilt_leaks_nothing_through_its_second_way_in():
    "A model that blanks nothing and masks no patch is found."

    class Leaky(ViLT):
        def inputs(self, batch, masks):
            seen, tokens = super().inputs(batch, masks), self.embed(batch.images)
            return seen | dict(image_embeds=tokens, pixel_mask=seen["pixel_mask"] * 0 + 1)

    batch, model = some_batch(), small("vilt")
    views = odd_views(model, batch)
    check_hidden_is_hidden(model, batch, views)
    with pytest.raises(AssertionError):
        check_hidden_is_hidden(small("vilt", Leaky), batch, views)


@pytest.mark.parametrize("name", LACKS)
def test_a_tensor_of_two_names_is_saved_and_stays_one(name, tmp_path):
    model = small(name)
    save(model, TOKENIZER, tmp_path / "one")
    again = checkpoints.load(tmp_path / "one")
    assert model.state_dict().keys() == load_file(tmp_path / "one" / "model.safetensors").keys()
    assert len(list(again.parameters())) == len(list(model.parameters()))
    if name == "vilt":
        words = again.net.vilt.embeddings.text_embeddings.word_embeddings.weight
        assert again.net.mlm_score.decoder.weight is words
    assert LACKS[name] in (tmp_path / "one" / "README.md").read_text()


@pytest.mark.parametrize("name, kept, lost", [("vitmae", "recon", "mlm"), ("vilt", "mlm", "recon")])
def test_columns_and_scores_say_what_is_lacking(name, kept, lost):
    model = small(name, max_text_len=40)
    world = Scenes("shapes", "val", img_size=SQUARE["img_size"])
    pair, wrong = world.pair(0), world.pair(1)
    found = reconstruct_pair(model, pair, [0, 4], [2], wrong, pair.caption)
    assert LACKS[name] in found.note and len(found.columns) == 4
    for column in found.columns.values():
        assert (column.picture is None) == (name == "vilt") == (column.error != column.error)
        assert (not column.tokens) == (name == "vitmae") == (column.nats != column.nats)
    with pytest.raises(UserError, match=LACKS[name]):
        reconstruct_pair(
            model, pair, **(dict(words=[2]) if name == "vitmae" else dict(patches=[0]))
        )
    reconstruct_pair(model, pair)  # nothing is hidden: nothing is lacking
    scores = evaluate_reconstruction(model, world, 6)
    assert scores[lost] is None and LACKS[name] in scores["lacks"]
    assert scores[kept]["ci"].keys() >= {"with", "without", "wrong"}
    if name == "vitmae":
        assert scores["recon"]["with"] == scores["recon"]["without"] == scores["recon"]["wrong"]


# ---- the command line


TRAIN = "train --data scenes:shapes --out run --steps"
EVALUATE = "evaluate --checkpoint run --data scenes --limit 4 --json n.json"
SHOW = "reconstruct --checkpoint run --image one.png --caption 'a red circle' --out o.png"
SCORES = dict(vitmae=["recon", "recon_object", "colour", "edit"], vilt=["mlm", "words"])


def once(capfd, words):
    "Exit code and what was said."
    code = main(shlex.split(words))
    return code, *capfd.readouterr()


@pytest.mark.parametrize("name", LACKS)
def test_trained_measured_and_shown_from_the_command_line(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    train = f"{TRAIN} 2 --model {name} --set {SIZES[name]}"
    code, out, err = once(capfd, train)
    assert code == 0 and out.startswith("checkpoint: ") and LACKS[name] in err
    assert once(capfd, f"{train} --resume")[0] == 0
    code, out, _ = once(capfd, EVALUATE)
    scores = json.loads(Path("n.json").read_text())
    assert code == 0 and LACKS[name] in out and "nan" not in out.lower()
    assert all(bool(scores.get(k)) == (k in SCORES[name]) for ks in SCORES.values() for k in ks)
    Image.new("RGB", (40, 40), "red").save("one.png")
    code, _, err = once(capfd, f"{SHOW} --hide-words red --json o.json")
    told = Path("o.json").read_text()
    assert code == 0 and LACKS[name] in err and "NaN" not in told and LACKS[name] in told
    assert Image.open("o.png").format == "PNG"
    impossible = dict(vitmae=f"{SHOW} --hide-image 0 --hide-words red", vilt=SHOW)[name]
    for words in (impossible, "demo --checkpoint run"):
        code, _, err = once(capfd, words)
        assert code == 2 and err.count("\n") == 1 and LACKS[name] in err


@pytest.mark.parametrize(
    "words, says",
    [
        ("--model vitmae --set img_size=64,48", "is not square"),
        ("--model vitmae --preset small", "is not one of tiny, base"),
        ("--model vitmae --set mlm=1", "losses.mlm has no effect"),
        ("--model vilt --set recon=1", "losses.recon has no effect"),
        ("--model vilt --set mlm=0", "nothing would be learnt"),
        ("--model vilt --set init_from=maskvlm-tiny", "is another model than vilt"),
        ("--model vit", "is not one of maskvlm, mlim, vitmae, vilt"),
    ],
)
def test_a_mistake_gets_one_line(words, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code, _, err = once(capfd, f"{TRAIN} 1 {words}")
    line = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert code == 2 and len(line) == 1 and says in line[0] and not Path("run").exists()
