"The one contract, on every model there is; each check is shown failing on a planted fault."

import json
from dataclasses import fields, replace
from functools import partial

import pytest
import torch

from mvl_bench import checkpoints, saving
from mvl_bench.core import Batch, Losses, UserError, view
from mvl_bench.encoders import ImageEncoder
from mvl_bench.losses import weigh
from mvl_bench.mam import ModalityAware
from mvl_bench.masking import (
    Masking,
    by_hand,
    random_squares,
    random_words,
    without_image,
    without_text,
)
from mvl_bench.maskvlm import MaskVLM
from mvl_bench.pairs import collate
from mvl_bench.scenes import Scenes
from mvl_bench.strategies import JOINT, PATCHES, WORDS
from mvl_bench.text import word_tokenizer
from mvl_bench.training import with_scores
from mvl_bench.word_strategies import token_kinds

SMALL = dict(
    img_size=(24, 32), patch_size=8, mask_size=8, max_words=24, embed_dim=32, num_heads=2,
    image_depth=1, text_depth=1, cross_depth=1, decoder_depth=1, depth=1, embedder_dim=16, decoder_dim=16,
    decoder_heads=2,
)  # fmt: skip
SQUARE = {"vitmae": (24, 24)}  # models that need a square picture
ADAPTED = {"vitmae", "vilt"}  # other people's
NAMED_TEXT = json.dumps(
    dict(
        model_type="bert",
        vocab_size=60,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
)
VARIANTS = dict(
    maskvlm={
        "plain": {},
        "mask_at input": dict(mask_at="input"),
        "decoder_depth 0": dict(decoder_depth=0),
        "both at once": dict(joint_masking="both"),
        "blocks, content, dirichlet, disguised": dict(
            image_masking="block", text_masking="content", joint_masking="dirichlet",
            disguise_ratio=0.5,
        ),
        "words only": dict(recon_weight=0.0),
        "pixels only": dict(mlm_weight=0.0),
        "l1, ratios vary": dict(recon_kind="l1", vary=1.0),
        "sse": dict(recon_kind="sse"),
        "l1, focused": dict(recon_focus=2.0),
        "encoders by name": dict(image_encoder="test_efficientnet", text_config=NAMED_TEXT),
        "four losses": dict(itc_weight=1.0, itm_weight=1.0, proj_dim=16, momentum=0.5),
    },
    mlim={
        "plain": {},
        "both at once": dict(joint_masking="both"),
        "one at a time, grid, spans": dict(
            joint_masking="one", image_masking="grid", text_masking="span", disguise_ratio=0.5
        ),
        "whole picture": dict(recon_area="whole"),
        "roberta": dict(text_arch="roberta"),
        "words only": dict(recon_weight=0.0),
        "pixels only": dict(mlm_weight=0.0),
        "l1, ratios vary": dict(recon_kind="l1", vary=1.0),
        "with matching, boxes": dict(itm_weight=1.0, box_ratio=0.5),
    },
    vitmae={
        "plain": {},
        "l1, grid, ratio fixed": dict(recon_kind="l1", image_masking="grid", vary=0.0),
    },
    vilt={
        "plain": {},
        "spans, one at a time, disguised": dict(
            text_masking="span", joint_masking="one", disguise_ratio=0.5, vary=1.0
        ),
    },
)  # fmt: skip
IDLE = {  # what no gradient can reach, by the option that makes it idle
    "plain": ["image_encoder.mask_token"],
    "mask_at input": ["mask_vector", "mask_position"],
    "words only": ["image_cross", "image_decoder", "to_pixels", "mask_", "absent_text"],
    "pixels only": ["text_cross", "to_words", "absent_image"],
    "mlim words only": ["decoder", "absent_text"],
    "mlim pixels only": ["to_words", "word_bias", "absent_image"],
    "four losses": ["contrast.slow"],
    "vitmae": ["net.vit.embeddings.position_embeddings", "net.decoder.decoder_pos_embed"],
    "vilt": ["net.vilt.pooler"],
    "reader": ["image_encoder.mask_token"],
}
CASES = [(name, v) for name in checkpoints.MODELS for v in VARIANTS.get(name, {"plain": {}})]
TOKENIZER = word_tokenizer(Scenes("shapes").captions(500))


@pytest.fixture(autouse=True)
def one_thread():
    "Small matrices are quickest on one thread."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(name="maskvlm", cls=None, **changes):
    "A small model with random weights, ready for use."
    made, presets = checkpoints.MODELS[name]
    known = {f.name for f in fields(made.config)}
    shape = SQUARE.get(name, SMALL["img_size"])
    sizes = {k: v for k, v in SMALL.items() if k in known} | dict(img_size=shape) | changes
    ids = dict(pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id)
    ids |= dict(token_kinds=token_kinds(TOKENIZER)) if "token_kinds" in known else {}
    torch.manual_seed(0)
    model = (cls or made)(replace(presets["tiny"](), vocab_size=len(TOKENIZER), **ids, **sizes))
    model.tokenizer = TOKENIZER
    return model.eval()


def pairs_of(count=6):
    "The first scenes as pairs."
    world = Scenes("shapes", img_size=SMALL["img_size"])
    return [world.pair(i) for i in range(count)]


def some_batch(count=6) -> Batch:
    "Scenes side by side; captions differ in length."
    return collate(pairs_of(count), TOKENIZER, SMALL["max_words"])


def odd_views(model, batch):
    "Uneven counts, everything hidden, nothing hidden, each modality absent, both hidden at once."
    n, rows = model.num_patches, torch.arange(len(batch))[:, None]
    patches = torch.arange(n) < torch.tensor([n, 0, 1, 5, n, 7])[: len(batch), None]
    words = batch.maskable & (torch.arange(batch.maskable.shape[1]) < 3 * rows)
    at_once = view(batch, n, patches, words | (rows == 0))
    alone = without_text(view(batch, n, patches), rows[:, 0] % 2 == 0)
    return (
        alone,
        without_image(view(batch, n, None, words), rows[:, 0] % 2 == 1),
        without_image(without_text(at_once, rows[:, 0] == 0), rows[:, 0] == 4),
        replace(view(batch, n, None, words), text_ids=batch.input_ids.where(~words, 7)),
    )


@pytest.fixture(params=CASES, ids=[" ".join(case) for case in CASES])
def case(request, monkeypatch):
    "Name of the model, name of the variant, model; pictures are of a shape that it takes."
    name, variant = request.param
    monkeypatch.setitem(SMALL, "img_size", SQUARE.get(name, SMALL["img_size"]))
    return name, variant, small(name, **VARIANTS.get(name, {}).get(variant, {}))


@pytest.fixture
def model(case):
    return case[2]


# ---- the checks; each takes a model and asserts


def check_shapes(model, batch, views):
    "Every offered answer has a row for each pair and a place for each patch or word."
    n, p = model.num_patches, model.cfg.patch_size
    for masks in views:
        pixels, logits, _ = model(batch, masks)
        assert (pixels is not None) == ("pixels" in model.offers)
        assert (logits is not None) == ("words" in model.offers)
        assert pixels is None or pixels.shape == (len(batch), n, 3 * p * p)
        words = (*batch.input_ids.shape, model.cfg.vocab_size)
        assert logits is None or logits.shape == words
        for looks in (model(batch, masks, attention=True).attention or {}).values():
            torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:-1]))
    found = model.features(batch)
    assert found.image.shape == found.fused_image.shape == (len(batch), n + 1, found.image.shape[2])
    if "words" not in model.offers:
        assert found.text is found.fused_text is None
    else:
        shape = (*batch.input_ids.shape, model.cfg.embed_dim)
        assert found.text.shape == found.fused_text.shape == shape
    assert (found.match is not None) == ("match" in model.offers)
    assert (found.image_vector is not None) == ("embed" in model.offers)


def check_finite(model, batch, views):
    "Predictions, losses and gradients are numbers, whatever is hidden."
    for masks in views:
        answers = [a for a in model(batch, masks)[:2] if a is not None]
        assert all(a.isfinite().all() for a in answers)
        model.zero_grad()
        parts = model.losses(batch, (masks,)).parts
        assert all(part.isfinite() for part in parts.values())
        if parts:
            weigh(parts, model.cfg.loss_weights).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in grads)


@torch.no_grad()
def check_asked(model, batch, views):
    "Rows that are asked for are answered as they are among all, in the order of asking; the rest is None."
    rows = dict(pixels=[2, 0], words=[1])
    for masks in views:
        every = model(batch, masks)
        for names in ({}, {"pixels"}, {"words"}, {"pixels", "words"}):
            asked = {name: rows[name] for name in names}
            for found, whole in zip(model(batch, masks, asked=asked)[:2], every.only(asked)[:2]):
                assert (found is None) == (whole is None)
                if found is not None:
                    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def check_gradients(model, batch, views, idle):
    "A gradient reaches every parameter but those that the options make idle."
    model.zero_grad()
    weigh(model.losses(batch, views).parts, model.cfg.loss_weights).backward()
    for name, p in model.named_parameters():
        # adds the same to all scores of a query: softmax ignores it
        if name.endswith(("key.bias", "k_proj.bias")):
            continue
        reached = p.grad is not None and bool((p.grad != 0).any())
        assert reached != name.startswith(tuple(idle)), f"{name} reached: {reached}"


def check_learns(model, batch, views, steps=80, lr=5e-3):
    "One batch is learnt by heart: every loss falls below a sixth."
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0)
    first = None
    for _ in range(steps):
        losses = model.losses(batch, views)
        now = {name: part.item() for name, part in losses.parts.items()}
        first = first or now
        if all(now[name] < first[name] / 6 for name in first):
            return
        weigh(losses.parts, model.cfg.loss_weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(losses.carry)
    raise AssertionError(f"{first} became {now}")


def scrambled(model, batch, masks):
    "The same batch with other pixels and words wherever a view hides them or a side is absent."
    p, (rows, columns) = model.cfg.patch_size, model.cfg.grid
    hidden = masks.image_mask | ~masks.has_image[:, None]
    spread = hidden.reshape(-1, 1, rows, columns).repeat_interleave(p, 2).repeat_interleave(p, 3)
    words = masks.text_mask | (~masks.has_text[:, None] & batch.maskable)
    other = torch.randint(5, model.cfg.vocab_size, batch.input_ids.shape)
    short = torch.arange(batch.input_ids.shape[1]) < 2  # an absent caption has no length either
    real = batch.attention_mask.where(masks.has_text[:, None], short.long())
    changed = dict(images=torch.rand_like(batch.images).where(spread, batch.images))
    ids = other.where(words, batch.input_ids)
    return replace(batch, **changed, input_ids=ids, attention_mask=real)


@torch.no_grad()
def check_hidden_is_hidden(model, batch, views):
    "What a view hides, or has not, changes no prediction of it, bit for bit."
    for masks in views:
        other = scrambled(model, batch, masks)
        assert not (masks.image_mask.any() and other.images.equal(batch.images))
        for before, after in zip(model(batch, masks)[:2], model(other, masks)[:2]):
            assert before is None or before.equal(after)


@torch.no_grad()
def check_visible_is_seen(model, batch):
    "What a view shows, of either side, changes what is filled in; a model without words reads none."
    n = model.num_patches
    half = torch.arange(n).expand(len(batch), n) < n // 2
    odd = batch.maskable & (torch.arange(batch.maskable.shape[1]) % 2 == 1)
    views = dict(pixels=view(batch, n, half), word_logits=view(batch, n, None, odd))
    others = (
        replace(batch, images=batch.images.flip(0)),
        replace(batch, input_ids=batch.input_ids.flip(0)),
    )
    for name, masks in views.items():
        seen = others if "words" in model.offers else others[:1]
        before, *after = (getattr(model(b, masks), name) for b in (batch, *seen))
        assert before is None or not any(a.equal(before) for a in after), name


@torch.no_grad()
def check_rows_stand_alone(model, pairs, views_of):
    "A pair is answered the same wherever it stands, whoever stands beside it, however long they are."
    whole = collate(pairs, TOKENIZER, model.cfg.max_words)
    order = torch.arange(len(pairs)).flip(0)
    for number, masks in enumerate(views_of(model, whole)):
        expected = model(whole, masks)
        moved = model(whole.rows(order), masks.rows(order))
        for row in (0, 3, 5):
            alone = collate([pairs[row]], TOKENIZER, model.cfg.max_words)
            t = alone.input_ids.shape[1]
            own = masks.rows([row])
            ids = None if own.text_ids is None else own.text_ids[:, :t]
            own = replace(own, text_mask=own.text_mask[:, :t], text_ids=ids)
            for all_, flipped, one in zip(expected[:2], moved[:2], model(alone, own)[:2]):
                if all_ is not None:
                    places = one.shape[1]
                    close = dict(rtol=1e-5, atol=1e-5, msg=f"view {number}, row {row}")
                    torch.testing.assert_close(flipped[len(pairs) - 1 - row], all_[row], **close)
                    torch.testing.assert_close(one[0], all_[row, :places], **close)


def check_losses_repeat(model, batch, views):
    "Same inputs, same numbers; and nothing has changed afterwards."
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (model.losses(batch, views, (1, 2)) for _ in range(2))
    assert first.counts == second.counts and first.parts.keys() == second.parts.keys()
    assert all(first.parts[name].equal(second.parts[name]) for name in first.parts)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(before[k].equal(after[k]) for k in before)


def pixel_error(cfg, error, patch, picture):
    "The error of pixels by its name, each weighed by its distance from its picture's mean colour, written out."
    far = (patch.reshape(-1, 3) - picture.mean((1, 2))).abs().mean(1)
    counts = (1 + getattr(cfg, "recon_focus", 0.0) * far).repeat_interleave(3)
    kinds = dict(l1=error.abs(), l2=error**2, sse=3 * error**2)
    return (kinds[getattr(cfg, "recon_kind", "l1")] * counts).mean()


@torch.no_grad()
def named_errors(model, batch, masks):
    "Surprise at every hidden patch of a model that names patches, one by one."
    numbers, found = model.numbers_of(batch.images), []
    for b, i in masks.image_mask.nonzero().tolist():
        row = masks.rows([b])
        chance = model.patch_logits(batch.rows([b]), row, torch.tensor([i])).softmax(-1)
        found.append(-chance[0, numbers[b, i]].log())
    return found


def check_losses_agree(model, batch, views):
    "The losses are what anybody computes from the predictions: a mean over all hidden units (pairs: `test_contrast`)."
    p, errors, nats, hidden = model.cfg.patch_size, [], [], dict(recon=0, mlm=0)
    whole = getattr(model.cfg, "recon_area", "hidden") == "whole"
    cut = batch.images.unfold(2, p, p).unfold(3, p, p)  # (b c rows columns p p)
    truth = cut.permute(0, 2, 3, 4, 5, 1).reshape(len(batch), model.num_patches, -1)
    for masks in views:
        pixels, logits, _ = model(batch, masks)
        if pixels is not None:
            error = pixels - truth
            area = masks.image_mask
            if whole and area.any():
                area = masks.has_image[:, None].expand_as(area)
            if getattr(model.cfg, "recon_kind", "") == "nats":
                errors += named_errors(model, batch, masks)
            else:
                for b, i in area.nonzero():
                    patch = truth[b, i], batch.images[b]
                    errors.append(pixel_error(model.cfg, error[b, i], *patch))
        if logits is not None:
            chance = logits.softmax(-1)
            nats += [
                -chance[b, i, batch.input_ids[b, i]].log() for b, i in masks.text_mask.nonzero()
            ]
        hidden["recon"] += masks.image_mask.sum()
        hidden["mlm"] += masks.text_mask.sum()
    expected = {
        k: v for k, v in dict(recon=errors, mlm=nats).items() if k in model.cfg.loss_weights and v
    }
    found = model.losses(batch, views)
    pairs = model.cfg.loss_weights.keys() & {"itc", "itm"}
    counts = {name: count for name, count in found.counts.items() if name not in pairs}
    assert counts == {name: hidden[name] for name in expected}
    assert whole or all(hidden[name] == len(values) for name, values in expected.items())
    assert found.parts.keys() == found.counts.keys() == expected.keys() | pairs
    for name, values in expected.items():
        torch.testing.assert_close(
            found.parts[name], sum(values) / len(values), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def check_ways_agree(encoder, images, hidden):
    "Leaving hidden patches out by gathering and by masking their keys gives the same tokens."
    gathered, dense = (encoder(images, hidden, way) for way in ("gather", "dense"))
    torch.testing.assert_close(gathered, dense, rtol=1e-5, atol=1e-5)
    assert (gathered[:, 1:][hidden] == 0).all()


@torch.no_grad()
def check_saves(model, batch, views, path, save=saving.save):
    "Saved and loaded, a model has the same config, the same weights and the same answers, bit for bit."
    save(model, TOKENIZER, path, dict(steps=3))
    again = checkpoints.load(path)
    assert again.cfg == model.cfg and again.facts == dict(steps=3) and not again.training
    assert again.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys() and all(old[name].equal(new[name]) for name in old)
    for masks in views:
        for a, b in zip(model(batch, masks)[:2], again(batch, masks)[:2]):
            assert a is None or a.equal(b)
    for a, b in zip(model.features(batch), again.features(batch)):
        assert a is None or a.equal(b)


# ---- every model


def test_shapes(model):
    check_shapes(model, some_batch(), odd_views(model, some_batch()))


def test_finite(model):
    batch = some_batch()
    check_finite(model, batch, (*odd_views(model, batch), *model.cfg.masking()(batch, (0, 0))))


def test_gradients_reach_what_should_learn(case):
    name, variant, model = case
    idle = IDLE["mask_at input" if variant == "mask_at input" else "plain"] + IDLE.get(variant, [])
    idle = idle if name == "maskvlm" else IDLE.get(f"{name} {variant}", IDLE.get(name, []))
    batch = some_batch()
    check_gradients(model, batch, odd_views(model, batch), idle)


def test_one_batch_is_learnt_by_heart(case):
    (name, _, model), batch = case, some_batch(4)
    views = replace(model.cfg.masking(), absent_ratio=0.0)(batch, (0, 0))
    pace = dict(steps=300) if name == "vitmae" else {}  # its decoder is 16 wide here
    pace = dict(steps=300, lr=2e-3) if "itc" in model.cfg.loss_weights else pace
    check_learns(model.train(), batch, views, **pace)


def test_rows_that_are_asked_for_are_answered(model):
    batch = some_batch()
    check_asked(model, batch, odd_views(model, batch))


def test_what_is_hidden_changes_nothing(model):
    batch = some_batch()
    check_hidden_is_hidden(
        model, batch, (*odd_views(model, batch), *model.cfg.masking()(batch, (3, 1)))
    )


def test_what_is_visible_counts(model):
    check_visible_is_seen(model, some_batch())


def test_rows_stand_alone(model):
    check_rows_stand_alone(model, pairs_of(), odd_views)


def test_losses_repeat_and_change_nothing(model):
    batch = some_batch()
    check_losses_repeat(model, batch, odd_views(model, batch))
    check_losses_repeat(model, batch, model.cfg.masking()(batch, (0, 0)))


def test_losses_are_means_of_what_forward_says(model):
    batch = some_batch()
    check_losses_agree(model, batch, odd_views(model, batch))
    check_losses_agree(model, batch, model.cfg.masking()(batch, (0, 0)))


def test_saved_and_loaded_bit_by_bit(model, tmp_path):
    batch = some_batch()
    check_saves(model, batch, odd_views(model, batch), tmp_path / "one")


@torch.no_grad()
def test_gathered_and_dense_models_agree(model):
    if not isinstance(getattr(model, "image_encoder", None), ImageEncoder):
        pytest.skip("no encoder of visible patches")
    batch = some_batch()
    views = odd_views(model, batch)
    check_ways_agree(model.image_encoder, batch.images, views[0].image_mask)
    if model.cfg.mask_at == "cross":
        gathered = [model(batch, masks) for masks in views]
        forward = model.image_encoder.forward
        model.image_encoder.forward = lambda images, hidden, way: forward(images, hidden, "dense")
        for masks, before in zip(views, gathered):
            for a, b in zip(before[:2], model(batch, masks)[:2]):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_pairs_that_lack_a_side_are_answered(model):
    pairs = pairs_of()
    lacking = [pairs[0], pairs[1]._replace(image=None), pairs[2]._replace(caption=None), *pairs[3:]]
    batch = collate(lacking, TOKENIZER, model.cfg.max_words)
    nothing = view(batch, model.num_patches)
    check_finite(model, batch, (*model.cfg.masking()(batch, (0, 0)), nothing))
    other = scrambled(model, batch, nothing)
    assert not other.images.equal(batch.images)
    for a, b in zip(
        model.features(batch), model.features(other)
    ):  # what is absent is not looked at
        assert a is None or (a.equal(b) and a.isfinite().all())


# ---- planted faults


class Cut(MaskVLM):
    def forward(self, *args, **more):
        found = super().forward(*args, **more)
        return found._replace(pixels=found.pixels[:, 1:])


class Blind(MaskVLM):
    "No number where everything is hidden: what an empty set of keys gives."

    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        blind = masks.image_mask.all(1)[:, None, None]
        return found._replace(pixels=found.pixels.masked_fill(blind, torch.nan))


class BlindLoss(MaskVLM):
    def losses(self, batch, views, key=()):
        found = super().losses(batch, views, key)
        bad = torch.nan if any(v.image_mask.all(1).any() for v in views) else 0
        return found._replace(parts={name: part + bad for name, part in found.parts.items()})


class Detached(MaskVLM):
    def decode_image(self, x, text):
        return super().decode_image(x, text).detach()


class Frozen(MaskVLM):
    def fuse_image(self, masks, image, text, *more):
        return super().fuse_image(masks, image, (text[0].detach() * 0, text[1]), *more)


class LeaksPixels(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels + batch.images.mean((1, 2, 3))[:, None, None])


class LeaksWords(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(word_logits=found.word_logits + batch.input_ids.sum(1)[:, None, None])


class LeaksLength(MaskVLM):
    "Looks at how long an absent caption is."

    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels + batch.attention_mask.sum(1)[:, None, None])


class Forgetful(MaskVLM):
    "Answers for the first rows, whichever are asked for."

    def forward(self, batch, masks, attention=False, asked=None):
        found = super().forward(batch, masks, attention)
        return found.only({name: slice(len(rows)) for name, rows in (asked or {}).items()} or None)


class Deaf(MaskVLM):
    "Paints without listening to the caption."

    def encode_text(self, batch, masks):
        tokens, keys = super().encode_text(batch, masks)
        return tokens * 0, keys


class MixesRows(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels - found.pixels.mean(0))


class Restless(MaskVLM):
    def losses(self, batch, views, key=()):
        found = super().losses(batch, views, key)
        return found._replace(parts={n: p + torch.rand(()) for n, p in found.parts.items()})


class Moves(MaskVLM):
    "Moves a weight where only `after_step` may."

    def losses(self, batch, views, key=()):
        found = super().losses(batch, views, key)
        self.mask_vector.data += 1e-3
        return found


class ScoresAll(MaskVLM):
    "Its loss ignores the masks."

    def losses(self, batch, views, key=()):
        every = [replace(v, image_mask=torch.ones_like(v.image_mask)) for v in views]
        found = super().losses(batch, views, key)
        return Losses(
            {**found.parts, "recon": super().losses(batch, every).parts["recon"]}, found.counts
        )


class MeanOfViews(MaskVLM):
    "A mean of each view's mean instead of a mean over all hidden units."

    def losses(self, batch, views, key=()):
        each = [super(MeanOfViews, self).losses(batch, (v,), key) for v in views]
        whole = super().losses(batch, views, key)
        means = {n: [e.parts[n] for e in each if n in e.parts] for n in whole.parts}
        return Losses({n: sum(m) / len(m) for n, m in means.items()}, whole.counts)


class Peeks(ImageEncoder):
    "Looks at hidden patches in the dense way."

    def forward(self, images, hidden=None, way="gather"):
        if way != "dense":
            return super().forward(images, hidden, way)
        return (
            self.run(self.embed(images)) * ~torch.cat([hidden[:, :1] & False, hidden], 1)[..., None]
        )


FAULTS = [
    (Cut, check_shapes),
    (Blind, check_finite),
    (Forgetful, check_asked),
    (BlindLoss, check_finite),
    (LeaksPixels, check_hidden_is_hidden),
    (LeaksWords, check_hidden_is_hidden),
    (LeaksLength, check_hidden_is_hidden),
    (Restless, check_losses_repeat),
    (Moves, check_losses_repeat),
    (ScoresAll, check_losses_agree),
    (MeanOfViews, check_losses_agree),
    (Detached, partial(check_gradients, idle=IDLE["plain"])),
    (Frozen, partial(check_gradients, idle=IDLE["plain"])),
    (Detached, check_learns),
    (Deaf, lambda model, batch, _: check_visible_is_seen(model, batch)),
    (MixesRows, lambda model, *_: check_rows_stand_alone(model, pairs_of(), odd_views)),
]


@pytest.mark.parametrize("cls, check", FAULTS, ids=lambda x: getattr(x, "__name__", "check"))
def test_a_faulty_model_is_found(cls, check):
    batch, sound, faulty = some_batch(), small(), small(cls=cls)
    if cls is not Detached:  # the sound model passes the same check on the same views
        check(sound, batch, odd_views(sound, batch))
    with pytest.raises(AssertionError):
        check(faulty, batch, odd_views(faulty, batch))


def test_a_faulty_encoder_is_found():
    hidden = odd_views(small(), some_batch())[0].image_mask
    with pytest.raises(AssertionError):
        check_ways_agree(Peeks(SMALL["img_size"], 8, 32, 1, 2), some_batch().images, hidden)


def test_a_faulty_save_is_found(tmp_path, monkeypatch):
    batch, model = some_batch(), small()
    check = partial(check_saves, model, batch, odd_views(model, batch))
    check(tmp_path / "sound")
    with pytest.raises(AssertionError):
        check(tmp_path / "rounded", partial(saving.save, dtype=torch.float16))
    write = saving.save_file

    def with_zeros(weights, *args, **more):
        write({**weights, "mask_vector": weights["mask_vector"] * 0}, *args, **more)

    def without_one(weights, *args, **more):
        write({k: v for k, v in weights.items() if k != "mask_vector"}, *args, **more)

    monkeypatch.setattr(saving, "save_file", with_zeros)
    with pytest.raises(AssertionError):
        check(tmp_path / "zeros")
    monkeypatch.setattr(saving, "save_file", without_one)
    with pytest.raises(UserError, match="missing: mask_vector"):
        check(tmp_path / "dropped")


# ---- masking

RATIOS = (0.0, 0.001, 0.25, 0.3, 0.5, 0.6, 0.99, 1.0)


def check_counts(hide, sizes):
    "Exactly the rounded share of every row's units, at least one above a ratio of 0."
    for ratio in RATIOS:
        expected = [max(1, round(ratio * m)) if ratio and m else 0 for m in sizes]
        assert hide(ratio).sum(1).tolist() == expected, f"ratio {ratio}"


def check_only_words(hide, batch):
    "Padding and special tokens are never hidden, not even at ratio 1."
    special = torch.tensor([TOKENIZER.pad_token_id, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id])
    for ratio in RATIOS:
        assert not (
            hide(ratio) & (torch.isin(batch.input_ids, special) | (batch.attention_mask == 0))
        ).any()


def check_repeatable(strategy, batch):
    "A sample's views depend on the key and its id, not on its place, its neighbours or the calls before."
    order = torch.tensor([4, 0, 5, 3])
    for whole, some in zip(
        strategy(batch, (0, 1)), strategy(batch.rows(order), (0, 1)), strict=True
    ):
        for f in fields(whole):
            a, b = getattr(whole, f.name), getattr(some, f.name)
            assert (a is None and b is None) or a[order].equal(b), f.name
    other = strategy(batch, (0, 2))
    assert not all(a.image_mask.equal(b.image_mask) and a.text_mask.equal(b.text_mask)
                   for a, b in zip(strategy(batch, (0, 1)), other))  # fmt: skip


def check_views(strategy, batch, n, at_once, hides=("recon", "mlm")):
    "A tuple of views with what they claim: shapes, kinds, and nothing hidden of what is absent."
    views = strategy(batch, (0, 0))
    assert isinstance(views, tuple) and len(views) == (1 if at_once else 2)
    for masks in views:
        assert masks.image_mask.shape == (len(batch), n) and masks.image_mask.dtype == torch.bool
        assert masks.text_mask.shape == batch.maskable.shape and masks.text_mask.dtype == torch.bool
        assert (masks.has_image <= batch.has_image).all() and (
            masks.has_text <= batch.has_text
        ).all()
        assert (masks.has_image | masks.has_text).all(), "both sides are absent"
        assert not (masks.image_mask & ~masks.has_image[:, None]).any()
        assert not (masks.text_mask & ~masks.has_text[:, None]).any()
        assert at_once or not (masks.image_mask.any() and masks.text_mask.any())
    found = dict(recon=[v.image_mask for v in views], mlm=[v.text_mask for v in views])
    assert {name for name, masks in found.items() if any(m.any() for m in masks)} == {*hides}


@pytest.mark.parametrize("grid, square", [((8, 8), 1), ((8, 8), 2), ((3, 4), 1), ((5, 7), 3)])
def test_squares_are_counted_exactly(grid, square):
    rows, columns = (-(-side // square) for side in grid)

    def hide(ratio):  # (b squares): each square is hidden as a whole, cut at the picture's edge
        mask = random_squares(torch.arange(20), grid, ratio, (0, 0), square).reshape(20, *grid)
        units = mask[:, ::square, ::square]
        again = units.repeat_interleave(square, 1).repeat_interleave(square, 2)
        assert again[:, : grid[0], : grid[1]].equal(mask)
        return units.flatten(1)

    check_counts(hide, [rows * columns] * 20)


def test_words_are_counted_exactly_and_only_words_hidden():
    batch = some_batch()

    def hide(ratio):
        return random_words(batch, ratio, (0, 0))

    check_counts(hide, batch.maskable.sum(1).tolist())
    check_only_words(hide, batch)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("absent_ratio", [0.0, 0.5, 1.0])
def test_strategies(at_once, absent_ratio):
    batch = some_batch()
    strategy = Masking((3, 4), 2, at_once=at_once, absent_ratio=absent_ratio)
    check_repeatable(strategy, batch)
    if not (at_once and absent_ratio == 1.0):
        check_views(strategy, batch, 12, at_once)
    pairs = [
        pairs_of()[0]._replace(image=None),
        pairs_of()[1]._replace(caption=None),
        *pairs_of()[2:],
    ]
    check_views(strategy, collate(pairs, TOKENIZER, 24), 12, at_once)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("absent_ratio", [0.0, 0.5])
def test_modality_aware_masking(at_once, absent_ratio):
    batch = some_batch()
    strategy = ModalityAware((3, 4), at_once=at_once, absent_ratio=absent_ratio)
    check_repeatable(strategy, batch)
    check_views(strategy, batch, 12, at_once)
    lacking = [p._replace(image=None) if i % 2 else p for i, p in enumerate(pairs_of())]
    check_views(strategy, collate(lacking, TOKENIZER, 24), 12, at_once)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_is_refused(ratio):
    batch = some_batch()
    for hide in (
        lambda: random_squares(batch.ids, (3, 4), ratio, (0,)),
        lambda: random_words(batch, ratio, (0,)),
        lambda: Masking((3, 4), image_ratio=ratio),
        lambda: Masking((3, 4), text_ratio=ratio),
        lambda: ModalityAware((3, 4), light_ratio=ratio),
    ):
        with pytest.raises(UserError, match="between 0 and 1"):
            hide()


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_the_config_reaches_the_masking(name):
    cfg = small(name).cfg
    shared = {f.name for f in fields(cfg)} & {f.name for f in fields(Masking)} - {"grid"}
    for option in shared:
        assert getattr(replace(cfg, **{option: 0.37}).masking(), option) == 0.37, option
    for image in PATCHES.keys() - ({"score"} if name in ADAPTED else set()):
        assert replace(cfg, image_masking=image).masking().hide_patches is PATCHES[image]


NAMED = [(i, "random", "one") for i in PATCHES] + [("random", t, "both") for t in WORDS]
NAMED += [("random", "random", j) for j in JOINT] + [("block", "content", "uniform")]
NAMED = {
    (name, i, *(("", "") if name == "vitmae" else rest))  # it hides no words
    for name in checkpoints.MODELS
    for i, *rest in NAMED
    if name not in ADAPTED or i != "score"
}


@pytest.mark.parametrize("name, image, text, joint", sorted(NAMED))
def test_strategies_by_name(name, image, text, joint, monkeypatch):
    monkeypatch.setitem(SMALL, "img_size", SQUARE.get(name, SMALL["img_size"]))
    words = dict(text_masking=text, joint_masking=joint, text_ratio=0.4, disguise_ratio=0.5)
    chosen = dict(image_masking=image, image_ratio=0.5, vary=0.3, **(words if text else {}))
    batch, model = some_batch(), small(name, **chosen)
    cfg = replace(model.cfg, absent_ratio=0.0) if text else model.cfg
    strategy = with_scores(cfg.masking(), model)
    check_repeatable(strategy, batch)
    views = strategy(batch, (0, 0))
    hides = {"recon", "mlm"} if text else {"recon"}
    check_views(strategy, batch, model.num_patches, joint not in ("one", "any"), hides)
    for masks in views:
        assert not (masks.text_mask & ~batch.maskable).any()
    if text:
        shown = views[-1]  # kept and replaced words are asked for, all others shown as they are
        assert shown.text_ids[~shown.text_mask].equal(batch.input_ids[~shown.text_mask])
    check_finite(model, batch, views)
    check_losses_agree(model, batch, views)
    check_hidden_is_hidden(model, batch, views)


def test_faulty_masking_is_found():
    batch, sound = some_batch(), Masking((3, 4), 1)

    def by_lot(ratio):
        torch.manual_seed(0)
        return torch.rand(20, 64) < ratio

    def position(batch, key):
        torch.manual_seed(key[1])
        return (view(batch, 12, torch.rand(len(batch), 12) < 0.5, batch.maskable),)

    def absent_hidden(batch, key):
        masks = sound(batch, key)
        return replace(masks[0], has_image=masks[0].has_image & False), masks[1]

    def specials(ratio):
        return (batch.input_ids > -1) & (ratio > 0)

    for check in (
        lambda: check_counts(by_lot, [64] * 20),
        lambda: check_counts(
            lambda r: random_squares(batch.ids, (8, 8), r, (0,)) & (r > 0.1), [64] * 6
        ),
        lambda: check_only_words(specials, batch),
        lambda: check_repeatable(position, batch),
        lambda: check_repeatable(lambda batch, _: sound(batch, (0,)), batch),
        lambda: check_views(lambda *a: list(sound(*a)), batch, 12, False),
        lambda: check_views(absent_hidden, batch, 12, False),
    ):
        with pytest.raises(AssertionError):
            check()


def test_hand_made_views_name_what_is_not_there():
    batch = some_batch()
    masks = by_hand(batch, 12, [0, 11], [0, 1, 2])
    assert masks.image_mask[:, [0, 11]].all() and masks.image_mask.sum() == 2 * len(batch)
    assert not masks.text_mask[:, 0].any() and masks.text_mask[:, 1:3].all()
    for patches, words in (([12], []), ([-1], []), ([], [99])):
        with pytest.raises(UserError, match="is not in 0"):
            by_hand(batch, 12, patches, words)
