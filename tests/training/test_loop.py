"The training loop: precision, compiled blocks, accumulated passes, masks by score, and the search for a learning rate."

import math
from types import SimpleNamespace

import pytest
import torch

from mvl_bench.core import MaskedVLModel, StepKey, UserError, update, view
from mvl_bench.data.factory import make_tokenizer, open_data
from mvl_bench.data.loader import batches, first_pairs
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.evaluation.baselines import baselines_of
from mvl_bench.masking.joint import with_scores
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_mini, maskvlm_tiny
from mvl_bench.models.mlim import MLIM, mlim_tiny
from mvl_bench.models.registry import MODELS
from mvl_bench.training.loop import (
    NotFinite,
    check_queue,
    checkpoint_blocks,
    compile_blocks,
    find_lr,
    microbatch_weights,
    precision,
    suggested,
    train_steps,
    units_of,
)
from mvl_bench.training.optim import TrainConfig

SIZES = dict(embed_dim=48, num_heads=2, image_depth=1, text_depth=1, cross_depth=1, decoder_depth=1)
SCORED = dict(image_strategy="score", full_mask_steps=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    "Synthetic scenes, their tokenizer and a batch of eight pairs."
    source = open_data("scenes:shapes", 64)
    tokenizer = make_tokenizer(source)
    pairs = collate([source.pair(i) for i in range(8)], tokenizer, 24)
    return SimpleNamespace(source=source, tokenizer=tokenizer, pairs=pairs)


@pytest.fixture(scope="module")
def small_model(data):
    "Build a very small MaskVLM from a seed and settings."
    tokenizer = data.tokenizer
    ids = dict(pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id)

    def build(seed=0, **settings):
        torch.manual_seed(seed)
        cfg = update(maskvlm_tiny(), **SIZES, **ids, vocab_size=len(tokenizer), **settings)
        return MaskVLM(cfg)

    return build


@pytest.fixture(scope="module")
def trained(data, small_model):
    "A model after 100 updates on eight pairs, with the record of each update."
    model, cfg = small_model(modality_dropout=0.0), TrainConfig(steps=100, lr=5e-3, warmup=10)
    return model, list(train_steps(model, [(data.pairs, 0)] * 100, cfg))


@pytest.fixture(scope="module")
def two_updates(small_model):
    "Train a new model for two updates over some passes; return its weights and its last losses."

    def train(passes, **settings):
        model, plain = small_model(seed=1), dict(steps=2, warmup=1, precision="fp32")
        cfg = TrainConfig(**plain | dict(accumulate=len(passes)) | settings)
        steps = list(train_steps(model, [(part, 0) for part in passes] * 2, cfg))
        return torch.cat([p.flatten() for p in model.parameters()]), steps[-1].losses

    return train


# ---- precision and compiled blocks


def test_matrix_products_are_in_the_requested_precision_and_only_within_the_block():
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with precision(CPU, name):
            assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == dtype
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.float32


def test_compiled_blocks_have_the_same_losses_and_names_of_weights(data, small_model):
    plain, compiled = small_model(seed=2).eval(), small_model(seed=2).eval()
    assert compile_blocks(compiled, backend="eager") == 5
    views = plain.cfg.build_masking()(data.pairs, (0, 0))
    with torch.no_grad():
        expected, parts = (model.losses(data.pairs, views).parts for model in (plain, compiled))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert expected.keys() == parts.keys()
    assert all(torch.allclose(parts[name], part, atol=1e-5) for name, part in expected.items())


# ---- updates


def test_a_small_model_memorises_eight_pairs(trained):
    _, steps = trained
    assert [step.step for step in steps] == list(range(1, 101))
    assert steps[-1].losses["mlm"] < 0.1 * steps[0].losses["mlm"]
    assert steps[-1].losses["recon"] < 0.35 * steps[0].losses["recon"]


def test_baselines_follow_the_masking_and_the_error_of_the_last_step(data, trained):
    model, (source, tokenizer) = trained[0], (data.source, data.tokenizer)
    early = baselines_of(model, source, tokenizer, TrainConfig(steps=150))
    assert early.keys() == {"mlm unigram", "recon mean"}  # whole images masked, squared errors
    many, _ = next(batches(source, tokenizer, 256))
    assert abs(early["recon mean"] - many.images.var(0, unbiased=False).mean()) < 1e-6
    late = baselines_of(model, source, tokenizer, TrainConfig(steps=1200))
    assert late.keys() == {"mlm unigram", "recon median", "recon background", "recon neighbour"}


def test_two_passes_of_four_pairs_equal_one_pass_of_eight(data, two_updates):
    whole, losses = two_updates([data.pairs])
    parts, split_losses = two_updates([data.pairs.rows(slice(4)), data.pairs.rows(slice(4, 8))])
    assert abs(losses["mlm"] - split_losses["mlm"]) < 1e-3
    assert (whole - parts).abs().mean() < 1e-4


def test_the_weights_of_the_passes_add_up_to_one_and_follow_the_masked_units(data, small_model):
    model = small_model(full_mask_steps=0, modality_dropout=0.0)
    halves = [data.pairs.rows(slice(4)), data.pairs.rows(slice(4, 8))]
    passes = [(half, model.cfg.build_masking()(half, (0, 0))) for half in halves]
    units = units_of(passes, model.cfg.losses)
    key = StepKey(losses=model.cfg.losses)
    shares = [microbatch_weights(model.losses(*each, key), units, len(passes)) for each in passes]
    masked_words = [views[1].text_mask.sum().item() for _, views in passes]
    assert masked_words[0] != masked_words[1] and sum(masked_words) == units["mlm"]
    assert [share["mlm"] * units["mlm"] for share in shares] == pytest.approx(masked_words)
    assert sum(share["recon"] for share in shares) == pytest.approx(1)


def test_passes_of_whole_images_are_weighed_by_their_scored_patches(data):
    "With `recon_area` whole, the mean over two passes is that of one pass, however many patches each masks."
    torch.manual_seed(0)
    ids = dict(pad_id=data.tokenizer.pad_token_id, mask_id=data.tokenizer.mask_token_id)
    sizes = dict(embed_dim=32, num_heads=2, depth=1, vocab_size=len(data.tokenizer))
    model, n = MLIM(update(mlim_tiny(), recon_area="whole", mlm=0.0, **sizes, **ids)), 64
    masked = torch.arange(n)[None] < torch.tensor([1, 0, 0, 1, 60, 60, 60, 60])[:, None]
    batches_and_masks = [(data.pairs, masked)]
    batches_and_masks += [(data.pairs.rows(part), masked[part]) for part in (slice(4), slice(4, 8))]
    (one, *two) = [(batch, (view(batch, n, mask),)) for batch, mask in batches_and_masks]
    units, key = units_of(two, model.cfg.losses), StepKey(losses=model.cfg.losses)
    losses = [model.losses(*each, key) for each in two]
    shares = [microbatch_weights(each, units, 2)["recon"] for each in losses]
    assert units["recon"] == 8 * n and shares == [0.5, 0.5]
    mean = sum(each.parts["recon"] * share for each, share in zip(losses, shares))
    torch.testing.assert_close(mean, model.losses(*one, key).parts["recon"])


def test_the_same_seed_gives_the_same_weights_bit_for_bit(data, two_updates):
    assert two_updates([data.pairs])[0].equal(two_updates([data.pairs])[0])


def test_losses_in_bf16_are_near_those_in_fp32(data, two_updates):
    _, losses = two_updates([data.pairs])
    _, half_losses = two_updates([data.pairs], precision="bf16")
    assert abs(half_losses["mlm"] - losses["mlm"]) < 0.05 * losses["mlm"]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(data, small_model):
    broken = small_model()
    broken.to_pixels[1].bias.data[0] = float("inf")
    before = {name: value.clone() for name, value in broken.state_dict().items()}
    with pytest.raises(UserError, match="loss recon is (nan|inf) at step 0: stopped before the update"):
        list(train_steps(broken, [(data.pairs, 0)], TrainConfig(steps=1)))
    assert all(value.equal(before[name]) for name, value in broken.state_dict().items())
    assert all(p.grad is None for p in broken.parameters())
    assert issubclass(NotFinite, UserError)


def test_the_loop_ends_when_the_data_end_within_an_update(data, small_model):
    cfg = TrainConfig(steps=5, accumulate=2, warmup=1)
    assert len(list(train_steps(small_model(), [(data.pairs, 0)] * 3, cfg))) == 1


def test_a_queue_that_the_batch_size_does_not_divide_is_rejected():
    cfg = update(maskvlm_tiny(), itc=1.0, queue_size=100)
    check_queue(cfg, 50)
    check_queue(update(cfg, itc=0.0), 32)  # no contrast, no queue
    with pytest.raises(UserError, match="queue_size 100 is not a multiple of batch_size 32"):
        check_queue(cfg, 32)


# ---- masks by score


def test_scores_are_the_attention_of_the_words_to_each_patch(data, small_model):
    pairs = data.pairs
    fixed = dict(image_ratio=0.3, random_ratio_prob=0.0, object_mask_prob=0.0)
    guided = small_model(seed=1, **SCORED, **fixed)
    scores = guided.patch_scores(pairs)
    assert (scores.sum(1) < pairs.maskable.sum(1)).all() and (scores > 0).all()
    assert scores.shape == (8, 64)
    attention = small_model(seed=1)(pairs, view(pairs, 64), attention=True).attention
    layers = [weights for name, weights in attention.items() if name.startswith("text_to")]
    rows = torch.stack(layers).mean((0, 2))
    expected = torch.stack([rows[i, pairs.maskable[i], 1:].sum(0) for i in range(8)])
    torch.testing.assert_close(scores, expected)


def test_with_contrast_scores_are_the_attention_of_the_class_token(data, small_model):
    model = small_model(seed=1, image_strategy="score", itc=1.0)
    expected = model.image_encoder.class_attention(data.pairs.images)
    torch.testing.assert_close(model.patch_scores(data.pairs), expected)


@pytest.mark.parametrize("settings", [dict(image_ratio=0.3), dict(itc=1.0)])
def test_a_model_that_scores_its_own_patches_trains(data, small_model, settings):
    model = small_model(seed=1, **SCORED, **settings)
    (step,) = train_steps(model, [(data.pairs, 0)], TrainConfig(steps=1, batch_size=8))
    assert step.losses.keys() == model.cfg.losses.weights.keys()
    assert all(math.isfinite(loss) for loss in step.losses.values())


def test_masking_by_score_without_scores_is_rejected(data, small_model):
    masking = small_model(seed=1, **SCORED).cfg.build_masking()
    with pytest.raises(UserError, match="image_strategy 'score' needs scores of patches"):
        with_scores(masking, MaskedVLModel)
    with pytest.raises(UserError, match="masking by score needs scores of shape"):
        masking(data.pairs, (0, 0))


# ---- the learning rate


def test_the_range_test_finds_a_rate_and_changes_neither_model_nor_random_state():
    torch.manual_seed(0)
    source = Scenes("shapes")
    tokenizer = word_tokenizer(source.captions(2000))
    model = MaskVLM(update(maskvlm_mini(), vocab_size=len(tokenizer), embed_dim=48))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state, cfg = torch.get_rng_state(), TrainConfig(batch_size=16)
    tried = find_lr(model, batches(source, tokenizer, 16), cfg)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(random_state)
    assert not any(p.grad is not None for p in model.parameters())
    rates = [entry.lr for entry in tried]
    assert rates == sorted(rates) and rates[-1] > 0.02
    assert min(entry.loss for entry in tried) < 0.9 and 3e-4 < suggested(tried) < 0.1


def test_no_rate_is_suggested_without_a_trial():
    assert math.isnan(suggested([]))


def megabytes_kept(model, batch, views):
    "What one forward pass keeps for the backward pass, each storage once."
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model.losses(batch, views)
    assert losses.parts  # and with them the graph live until here
    return sum(size for place, size in kept.items() if place not in weights) / 1e6


@pytest.mark.parametrize("kind", ["maskvlm", "mlim"])
def test_checkpoints_keep_less_and_change_no_bit(kind):
    source = open_data("scenes", 64)
    tokenizer = make_tokenizer(source)
    batch = collate(first_pairs(source, 32), tokenizer, 32)
    words = dict(vocab_size=len(tokenizer), pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id)
    cfg = update(MODELS[kind][1]["tiny"](), **words)
    kept, gradients = [], []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        model = MODELS[kind][0](cfg).train()
        views = cfg.build_masking()(batch, (0, 0))
        if checkpoints:
            assert checkpoint_blocks(model) == checkpoint_blocks(model) > 2  # twice is once
        kept.append(megabytes_kept(model, batch, views))
        sum(model.losses(batch, views).parts.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    print(kind, kept)
    assert kept[1] < kept[0] / 2
    assert gradients[0].keys() == gradients[1].keys()
    assert all(value.equal(gradients[1][name]) for name, value in gradients[0].items())
