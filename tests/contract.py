"The one contract as checks: small models of every kind, batches, and what must hold of them."

import json
from dataclasses import replace

import pytest
import torch

from mvl_bench.core import Batch, update, view
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.masking.base import (
    without_image,
    without_text,
)
from mvl_bench.masking.text import token_kinds
from mvl_bench.models import base as saving
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.losses import weigh

SMALL = dict(
    img_size=(24, 32), patch_size=8, mask_size=8, max_text_len=24, embed_dim=32, num_heads=2,
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
        "mask_token_at input": dict(mask_token_at="input"),
        "decoder_depth 0": dict(decoder_depth=0),
        "both at once": dict(joint_strategy="joint"),
        "blocks, content, dirichlet, disguised": dict(
            image_strategy="block", text_strategy="content", joint_strategy="dirichlet",
            corruption_ratio=0.5,
        ),
        "words only": dict(recon=0.0),
        "pixels only": dict(mlm=0.0),
        "l1, ratios vary": dict(recon_kind="l1", random_ratio_prob=1.0),
        "sse": dict(recon_kind="sse"),
        "l1, focused": dict(recon_saliency_weight=2.0),
        "encoders by name": dict(timm_model="test_efficientnet", hf_config=NAMED_TEXT),
        "four losses": dict(itc=1.0, itm=1.0, proj_dim=16, momentum=0.5),
    },
    mlim={
        "plain": {},
        "both at once": dict(joint_strategy="joint"),
        "one at a time, grid, spans": dict(
            joint_strategy="alternating", image_strategy="grid", text_strategy="span", corruption_ratio=0.5
        ),
        "whole picture": dict(recon_area="whole"),
        "roberta": dict(arch="roberta"),
        "words only": dict(recon=0.0),
        "pixels only": dict(mlm=0.0),
        "l1, ratios vary": dict(recon_kind="l1", random_ratio_prob=1.0),
        "with matching, boxes": dict(itm=1.0, object_mask_prob=0.5),
    },
    vitmae={
        "plain": {},
        "l1, grid, ratio fixed": dict(recon_kind="l1", image_strategy="grid", random_ratio_prob=0.0),
    },
    vilt={
        "plain": {},
        "spans, one at a time, disguised": dict(
            text_strategy="span", joint_strategy="alternating", corruption_ratio=0.5, random_ratio_prob=1.0
        ),
    },
)  # fmt: skip
IDLE = {  # what no gradient can reach, by the option that makes it idle
    "plain": ["image_encoder.mask_token"],
    "mask_token_at input": ["mask_vector", "mask_position"],
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
    known = {name.split(".")[-1] for name in made.config.names()}
    shape = SQUARE.get(name, SMALL["img_size"])
    sizes = {k: v for k, v in SMALL.items() if k in known} | dict(img_size=shape) | changes
    ids = dict(pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id)
    ids |= dict(token_kinds=token_kinds(TOKENIZER)) if "token_kinds" in known else {}
    torch.manual_seed(0)
    model = (cls or made)(update(presets["tiny"](), vocab_size=len(TOKENIZER), **ids, **sizes))
    model.tokenizer = TOKENIZER
    return model.eval()


def pairs_of(count=6):
    "The first scenes as pairs."
    world = Scenes("shapes", img_size=SMALL["img_size"])
    return [world.pair(i) for i in range(count)]


def some_batch(count=6) -> Batch:
    "Scenes side by side; captions differ in length."
    return collate(pairs_of(count), TOKENIZER, SMALL["max_text_len"])


def odd_views(model, batch):
    "Uneven counts, everything hidden, nothing hidden, each modality absent, both hidden at once."
    n, rows = model.num_patches, torch.arange(len(batch))[:, None]
    patches = torch.arange(n) < torch.tensor([n, 0, 1, 5, n, 7])[: len(batch), None]
    words = batch.maskable & (torch.arange(batch.maskable.shape[1]) < 3 * rows)
    joint = view(batch, n, patches, words | (rows == 0))
    alone = without_text(view(batch, n, patches), rows[:, 0] % 2 == 0)
    return (
        alone,
        without_image(view(batch, n, None, words), rows[:, 0] % 2 == 1),
        without_image(without_text(joint, rows[:, 0] == 0), rows[:, 0] == 4),
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
    n, p = model.num_patches, model.cfg.image.patch_size
    for masks in views:
        pixels, logits, _ = model(batch, masks)
        assert (pixels is not None) == ("pixels" in model.offers)
        assert (logits is not None) == ("words" in model.offers)
        assert pixels is None or pixels.shape == (len(batch), n, 3 * p * p)
        words = (*batch.input_ids.shape, model.cfg.text.vocab_size)
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
            weigh(parts, model.cfg.losses.weights).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in grads)


@torch.no_grad()
def check_asked(model, batch, views):
    "Rows that are asked for are answered as they are among all, in the order of asking; the rest is None."
    rows = dict(pixels=[2, 0], words=[1])
    for masks in views:
        every = model(batch, masks)
        for names in ({}, {"pixels"}, {"words"}, {"pixels", "words"}):
            requested = {name: rows[name] for name in names}
            for found, whole in zip(
                model(batch, masks, requested=requested)[:2], every.only(requested)[:2]
            ):
                assert (found is None) == (whole is None)
                if found is not None:
                    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def check_gradients(model, batch, views, idle):
    "A gradient reaches every parameter but those that the options make idle."
    model.zero_grad()
    weigh(model.losses(batch, views).parts, model.cfg.losses.weights).backward()
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
        weigh(losses.parts, model.cfg.losses.weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(losses.carry)
    raise AssertionError(f"{first} became {now}")


def scrambled(model, batch, masks, pixel=None):
    "The same batch with other words, and random pixels or one value, where a view masks them or a modality is absent."
    p, (rows, columns) = model.cfg.image.patch_size, model.cfg.image.grid
    masked = masks.image_mask | ~masks.has_image[:, None]
    spread = masked.reshape(-1, 1, rows, columns).repeat_interleave(p, 2).repeat_interleave(p, 3)
    words = masks.text_mask | (~masks.has_text[:, None] & batch.maskable)
    other = torch.randint(5, model.cfg.text.vocab_size, batch.input_ids.shape)
    short = torch.arange(batch.input_ids.shape[1]) < 2  # an absent caption has no length either
    real = batch.attention_mask.where(masks.has_text[:, None], short.long())
    noise = torch.rand_like(batch.images)
    noise = noise if pixel is None else torch.full_like(noise, pixel)
    changed = dict(images=noise.where(spread, batch.images))
    ids = other.where(words, batch.input_ids)
    return replace(batch, **changed, input_ids=ids, attention_mask=real)


@torch.no_grad()
def check_hidden_is_hidden(model, batch, views, pixel=None):
    "What a view masks, or lacks, changes no prediction of it, bit for bit."
    for masks in views:
        other = scrambled(model, batch, masks, pixel)
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
    whole = collate(pairs, TOKENIZER, model.cfg.text.max_text_len)
    order = torch.arange(len(pairs)).flip(0)
    for number, masks in enumerate(views_of(model, whole)):
        expected = model(whole, masks)
        moved = model(whole.rows(order), masks.rows(order))
        for row in (0, 3, 5):
            alone = collate([pairs[row]], TOKENIZER, model.cfg.text.max_text_len)
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
    first, second = (model.losses(batch, views, model.cfg.step_key(1, 2)) for _ in range(2))
    assert first.counts == second.counts and first.parts.keys() == second.parts.keys()
    assert all(first.parts[name].equal(second.parts[name]) for name in first.parts)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(before[k].equal(after[k]) for k in before)


def pixel_error(cfg, error, patch, picture):
    "The error of pixels by its name, each weighed by its distance from its picture's mean colour, written out."
    far = (patch.reshape(-1, 3) - picture.mean((1, 2))).abs().mean(1)
    counts = (1 + cfg.losses.recon_saliency_weight * far).repeat_interleave(3)
    kinds = dict(l1=error.abs(), l2=error**2, sse=3 * error**2)
    return (kinds[cfg.losses.recon_kind] * counts).mean()


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
    p, errors, nats, masked = model.cfg.image.patch_size, [], [], dict(recon=0, mlm=0)
    whole = model.cfg.losses.recon_area == "whole"
    cut = batch.images.unfold(2, p, p).unfold(3, p, p)  # (b c rows columns p p)
    truth = cut.permute(0, 2, 3, 4, 5, 1).reshape(len(batch), model.num_patches, -1)
    for masks in views:
        pixels, logits, _ = model(batch, masks)
        area = masks.image_mask
        if whole and area.any():
            area = masks.has_image[:, None].expand_as(area)
        if pixels is not None:
            error = pixels - truth
            if model.cfg.losses.recon_kind == "nats":
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
        masked["recon"] += area.sum()
        masked["mlm"] += masks.text_mask.sum()
    expected = {
        k: v for k, v in dict(recon=errors, mlm=nats).items() if k in model.cfg.losses.weights and v
    }
    found = model.losses(batch, views)
    pairs = model.cfg.losses.weights.keys() & {"itc", "itm"}
    counts = {name: count for name, count in found.counts.items() if name not in pairs}
    assert counts == {name: masked[name] for name in expected}
    assert all(masked[name] == len(values) for name, values in expected.items())
    assert found.parts.keys() == found.counts.keys() == expected.keys() | pairs
    for name, values in expected.items():
        torch.testing.assert_close(
            found.parts[name], sum(values) / len(values), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def check_ways_agree(encoder, images, masked):
    "Leaving hidden patches out by gathering and by masking their keys gives the same tokens."
    gathered, dense = (encoder(images, masked, way) for way in ("gather", "dense"))
    torch.testing.assert_close(gathered, dense, rtol=1e-5, atol=1e-5)
    assert (gathered[:, 1:][masked] == 0).all()


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
