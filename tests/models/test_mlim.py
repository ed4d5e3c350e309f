"What is MLIM's own: the embedder, the one [MASK], the whole picture, the paper's sizes; each check seen failing once."

import json
from dataclasses import replace

import pytest
import torch
from contract import TOKENIZER, check_hidden_is_hidden, odd_views, scrambled, small, some_batch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, RobertaConfig, RobertaForMaskedLM

from mvl_bench.apps.cli.main import main
from mvl_bench.core import StepKey, UserError, by_hand, update, view
from mvl_bench.data.tokenizers import encode
from mvl_bench.masking.base import Masking, without_image, without_text
from mvl_bench.models.layers import PatchEmbedder
from mvl_bench.models.mlim import MLIM, MLIM_PRESETS, MLIMConfig, mlim_paper, mlim_tiny
from mvl_bench.models.pretrained import read_text_config
from mvl_bench.models.registry import load


@pytest.fixture(autouse=True)
def one_thread():
    "Small matrices are quickest on one thread."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    return small("mlim")


class Overlapping(nn.Conv2d):
    "An embedder whose windows overlap."

    def __init__(self):
        super().__init__(3, 32, 9, 8, 4)

    def forward(self, images):
        return super().forward(images).flatten(2).transpose(1, 2)


class BatchStatistics(PatchEmbedder):
    "An embedder that looks at means over all pictures and places."

    def forward(self, images):
        return super().forward(images - images.mean((0, 2, 3), keepdim=True))


class LeakyLoss(MLIM):
    "Every token has glanced at the whole picture."

    def sequence(self, batch, masks):
        x, keys = super().sequence(batch, masks)
        return x + batch.images.mean((1, 2, 3))[:, None, None], keys


@torch.no_grad()
def check_friendly(embedder):
    "Changed pixels of hidden patches change their own tokens and nothing else, bit for bit."
    batch, model = some_batch(), small("mlim")
    for masks in odd_views(model, batch):
        other = scrambled(model, batch, masks)
        before, after = embedder(batch.images), embedder(other.images)
        masked = masks.image_mask | ~masks.has_image[:, None]
        assert before[~masked].equal(after[~masked])
        assert not masked.any() or not before[masked].equal(after[masked])


def test_hidden_pixels_change_no_visible_token(model):
    check_friendly(model.embedder)
    for faulty in (Overlapping(), BatchStatistics(8, 32, 16)):
        with pytest.raises(AssertionError):
            check_friendly(faulty)


@torch.no_grad()
def test_hidden_pixels_change_no_input_and_no_prediction(model):
    batch = some_batch()
    views = (*odd_views(model, batch), *model.cfg.build_masking()(batch, (0, 0)))
    for masks in views:
        other = scrambled(model, batch, masks)
        for before, after in zip(model.sequence(batch, masks), model.sequence(other, masks)):
            keys = model.sequence(batch, masks)[1]
            assert before[keys].equal(after[keys])
    check_hidden_is_hidden(model, batch, views)
    with pytest.raises(AssertionError):
        check_hidden_is_hidden(small("mlim", LeakyLoss), batch, views)


@torch.no_grad()
def test_hidden_patches_and_hidden_words_are_one_vector(model):
    batch, n = some_batch(), model.num_patches
    patches = torch.arange(n).expand(len(batch), n) % 2 == 0
    masks = view(batch, n, patches, batch.maskable)
    x, _ = model.sequence(batch, masks)
    vector = model.words[model.cfg.text.mask_id]
    masked = torch.cat([masks.image_mask, masks.text_mask], 1)
    assert (x[masked] == vector).all() and not (x[~masked] == vector).all(-1).any()
    model.words[model.cfg.text.mask_id] += 1.0  # one number moves both
    moved, _ = model.sequence(batch, masks)
    assert (moved[masked] == vector).all() and moved[~masked].equal(x[~masked])
    assert not any("mask" in name for name, _ in model.named_parameters())


def test_the_mask_vector_learns_from_pixels_alone(model):
    batch = some_batch()
    masks = view(batch, model.num_patches, torch.ones(len(batch), model.num_patches) > 0)
    model.losses(batch, (masks,)).parts["recon"].backward()
    assert model.words.grad[model.cfg.text.mask_id].any()


@torch.no_grad()
def test_words_go_through_berts_own_head(model):
    "With the same weights, transformers' masked language model gives the same scores."
    cfg, batch = model.cfg, some_batch()
    theirs = BertForMaskedLM(
        BertConfig(
            vocab_size=cfg.text.vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=128, max_position_embeddings=12 + 24 + 1, type_vocab_size=1,
        )
    ).eval()  # fmt: skip
    theirs.bert.load_state_dict(model.bert.state_dict())
    head = theirs.cls.predictions
    head.transform.dense.load_state_dict(model.to_words[0].state_dict())
    head.transform.LayerNorm.load_state_dict(model.to_words[2].state_dict())
    head.bias.copy_(model.word_bias.normal_())
    head.decoder.bias.copy_(model.word_bias)
    masks = odd_views(model, batch)[2]
    x, keys = model.sequence(batch, masks)
    places = torch.arange(x.shape[1])[None] + 1
    expected = theirs(inputs_embeds=x, attention_mask=keys.long(), position_ids=places).logits
    scores = model(batch, masks).word_logits
    torch.testing.assert_close(scores, expected[:, model.num_patches :], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_whole_picture_is_scored_where_asked():
    masked, whole = (small("mlim", recon_area=area) for area in ("hidden", "whole"))
    batch = some_batch()
    one = torch.zeros(len(batch), 12, dtype=torch.bool)
    one[0, 0] = True
    masks = view(batch, 12, one)
    bright = replace(batch, images=batch.images.clone())
    bright.images[3, :, 16:, 24:] = 1 - bright.images[3, :, 16:, 24:]  # visible, another picture
    for model, changes in ((masked, False), (whole, True)):
        parts = [model.losses(b, (masks,)).parts["recon"] for b in (batch, bright)]
        assert parts[0].equal(parts[1]) != changes
        counts = model.losses(batch, (masks,)).counts
        assert counts == dict(recon=12 * len(batch) if changes else 1)  # scored patches
        assert model.losses(batch, (view(batch, 12),)).parts == {}


def test_logits_only_at_hidden_words(model, monkeypatch):
    batch, seen = some_batch(), []
    score = model.score_words
    monkeypatch.setattr(model, "score_words", lambda x: seen.append(x.shape) or score(x))
    (masks,) = model.cfg.build_masking()(batch, (0, 0))
    model.losses(batch, (masks,))
    assert seen == [(masks.text_mask.sum(), model.cfg.embed_dim)]


def test_the_papers_sizes():
    "Embedder about 200 K, decoder about 2.8 M, BERT-large; nothing allocated."
    with torch.device("meta"):
        paper, tiny = MLIM(mlim_paper()), MLIM(mlim_tiny())

    def count(part):
        return sum(p.numel() for p in part.parameters())

    assert all(p.is_meta for p in paper.parameters())
    assert count(paper.embedder) == pytest.approx(200e3, rel=0.05)
    assert count(paper.decoder) == pytest.approx(2.8e6, rel=0.02)
    assert count(paper.bert) == pytest.approx(335e6, rel=0.01)
    assert count(tiny) == pytest.approx(1.4e6, rel=0.05)
    convs = [m for m in paper.embedder if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convs] == [2] * 5 + [1] * 2
    assert all(m.kernel_size == m.stride for m in convs)
    assert mlim_paper().image.grid == (12, 12) and mlim_paper().losses.recon_area == "whole"


def test_no_batch_statistics():
    with torch.device("meta"):
        kinds = {type(m) for preset in MLIM_PRESETS.values() for m in MLIM(preset()).modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(patch_size=12, img_size=(24, 24), mask_size=12), "patch_size 12"),
        (dict(embedder_dim=30), "embedder_dim 30"),
        (dict(embedder_dim=6), "embedder_dim 6"),
        (dict(decoder_dim=0), "decoder_dim 0"),
        (dict(mlm=0.0, recon=0.0), "losses.mlm"),
        (dict(decoder_dim=-8), "decoder_dim -8"),
        (dict(depth=0), "depth 0"),
        (dict(arch="gpt2"), "'gpt2'"),
        (dict(recon_area="all"), "'all'"),
        (dict(mam_light_ratio=2.0), "mam_light_ratio 2.0"),
        (dict(mask_id=400), "mask_id 400"),
        (dict(mlm=0.0, image_ratio=0.0, mam_light_ratio=0.0, random_ratio_prob=0.0), "ratio of 0"),
    ],
)
def test_impossible_sizes_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        update(mlim_tiny(), **wrong)


def test_captions_of_any_length_fit(model):
    ids, _, _ = encode(TOKENIZER, ["red " * 60], model.cfg.text.max_text_len)
    assert ids.shape[1] == model.cfg.text.max_text_len
    batch = some_batch(1)
    longest = replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids), maskable=ids > 4)
    assert model(longest, view(longest, 12)).word_logits.isfinite().all()


def test_matching_is_what_anybody_computes():
    model, batch, key = small("mlim", itm=1.0), some_batch(), StepKey(0, 3, 1)
    found = model.losses(batch, (view(batch, 12),), key)  # nothing is hidden: matching alone
    pairs, matched = model._pairs(batch, key)
    assert found.counts == dict(itm=3 * len(batch)) and matched.tolist() == [1] * 6 + [0] * 12
    nats = [
        -model.features(pairs.rows([i])).match.mul(2 * label - 1).sigmoid().log()
        for i, label in enumerate(matched.tolist())
    ]
    torch.testing.assert_close(found.parts["itm"], torch.cat(nats).mean(), rtol=1e-4, atol=1e-5)


def test_matching_never_takes_the_same_item_for_wrong():
    model, batch = small("mlim", itm=1.0), some_batch()
    for item in (torch.tensor([0, 0, 1, 1, 2, 2]), torch.zeros(6, dtype=torch.long)):
        given = replace(batch, item=item)
        pairs, matched = model._pairs(given, StepKey())
        pictures = [
            (batch.images == one).flatten(1).all(1).nonzero().item() for one in pairs.images
        ]
        wrong = pairs.item != item[pictures]
        assert wrong.equal(matched == 0)
        losses = model.losses(given, (view(given, 12),), model.cfg.step_key(0, 0))
        assert ("itm" in losses.parts) == bool(len(matched)) == (item.max() > 0)


PUBLISHED = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    hidden_act="gelu",
)
MODELS = {
    "bert": (BertForMaskedLM, BertConfig, 0),
    "roberta": (RobertaForMaskedLM, RobertaConfig, 1),
}


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    "A BERT or RoBERTa with a word head, as somebody else would publish it."
    model, config, pad_id = MODELS[request.param]
    torch.manual_seed(5)
    sizes = dict(vocab_size=len(TOKENIZER), max_position_embeddings=48, pad_token_id=pad_id)
    whole = model(config(**sizes, **PUBLISHED)).eval()
    for p in whole.parameters():
        p.data += 0.1 * torch.randn_like(p)  # biases and norms, too, differ from their defaults
    whole.save_pretrained(tmp_path / "published")
    TOKENIZER.save_pretrained(tmp_path / "published")
    return whole, tmp_path / "published"


def from_published(folder, pad_id=0, **changes) -> MLIM:
    "An MLIM whose transformer and word head are those of a folder."
    config = read_text_config(str(folder))
    ids = dict(vocab_size=len(TOKENIZER), pad_id=pad_id, mask_id=TOKENIZER.mask_token_id)
    text = dict(hf_model=str(folder), hf_config=config, **ids)
    sizes = MLIMConfig.sizes_of_text_model(config)
    cfg = update(mlim_tiny(), **dict(img_size=(32, 32)) | sizes | text | changes)
    return MLIM(cfg).eval()


@torch.no_grad()
def test_words_alone_are_read_and_scored_as_the_published_model_does(published):
    whole, folder = published
    pad_id = whole.config.pad_token_id
    model = from_published(folder, pad_id)
    notes = model.load_published()
    assert not any("word head" in note for note in notes), notes
    ids = torch.randint(5, len(TOKENIZER), (3, model.cfg.text.max_text_len))
    words = model.bert.embeddings.word_embeddings(ids)
    positions = model._places(model.num_patches + ids.shape[1])[:, model.num_patches :]
    tokens = model.bert(inputs_embeds=words, position_ids=positions).last_hidden_state
    torch.testing.assert_close(model.score_words(tokens), whole(input_ids=ids).logits)


@torch.no_grad()
def test_patches_begin_at_the_scale_of_published_words(published):
    whole, folder = published
    model = from_published(folder, whole.config.pad_token_id)
    random = model.embedder[-1].weight.std() / model.words.std()
    model.load_published()
    torch.testing.assert_close(model.embedder[-1].weight.std() / model.words.std(), random)
    table = whole.base_model.embeddings.position_embeddings.weight
    patches = model._places(model.num_patches)[0]
    scale = model.bert.embeddings.position_embeddings.weight[patches].square().mean()
    torch.testing.assert_close(scale, table.square().mean(), rtol=0.05, atol=0.0)


def test_a_published_model_without_word_head(tmp_path):
    bert = BertModel(BertConfig(vocab_size=len(TOKENIZER), **PUBLISHED))
    bert.save_pretrained(tmp_path / "bare")
    (note,) = [n for n in from_published(tmp_path / "bare").load_published() if "head" in n]
    assert note.endswith("bare has no word head: it starts from random weights")


def test_a_published_model_of_other_sizes_or_another_kind(published, tmp_path):
    whole, folder = published
    pad_id = whole.config.pad_token_id
    with pytest.raises(UserError, match="embed_dim 64: hf_model has 32"):
        from_published(folder, pad_id, embed_dim=64)
    with pytest.raises(UserError, match="max_text_len 60 is over the 4[68] that hf_model can read"):
        from_published(folder, pad_id, max_text_len=60).load_published()
    electra = json.dumps(dict(model_type="electra", hidden_size=32))
    with pytest.raises(UserError, match="hf_model is of type electra: MLIM takes bert or roberta"):
        update(mlim_tiny(), hf_model="x", hf_config=electra)


def test_trained_from_bert_and_loaded_without_it(tmp_path, capsys):
    torch.manual_seed(5)
    sizes = dict(vocab_size=len(TOKENIZER), max_position_embeddings=48)
    BertForMaskedLM(BertConfig(**sizes, **PUBLISHED)).save_pretrained(tmp_path / "bert")
    TOKENIZER.save_pretrained(tmp_path / "bert")
    run = [
        "train",
        "--model",
        "mlim",
        "--preset",
        "tiny",
        "--data",
        "scenes:shapes",
        "--steps",
        "2",
    ]
    run += ["--out", str(tmp_path / "run"), "--set", f"hf_model={tmp_path / 'bert'}", "img_size=32"]
    assert main([*run, "probe_every=0", "training.batch_size=4", "workers=0"]) in (0, None)
    for file in (tmp_path / "bert").iterdir():
        file.unlink()
    model = load(tmp_path / "run")
    assert (
        model.cfg.embed_dim == 32
        and model.cfg.depth == 2
        and model.words.shape[0] == len(TOKENIZER)
    )


def test_masking_of_a_run_masks_whole_images_first():
    tiny = mlim_tiny()
    last = tiny.masking.full_mask_steps - 1
    assert tiny.at_step(last).build_masking().image_ratio == 1
    assert tiny.at_step(last + 1) is tiny
    plain = update(tiny, joint_strategy="joint", image_ratio=0.32, text_ratio=0.32).build_masking()
    assert type(plain) is Masking and plain.one_view and plain.image_ratio == 0.32


@torch.no_grad()
def test_absent_modalities_are_one_token_and_nothing_attends_to_padding(model):
    batch, rows = some_batch(4), torch.arange(4)
    masks = by_hand(batch, 12, patches=[5, 6, 9, 10], words=[2, 3])
    masks = without_image(without_text(masks, rows == 1), rows == 2)
    x, attended = model.sequence(batch, masks)
    is_mask = (x == model.words[model.cfg.text.mask_id]).all(-1) & attended
    assert is_mask.sum(1).tolist() == [6, 4, 2, 6]
    is_absent = ((x == model.absent_image) | (x == model.absent_text)).all(-1) & attended
    assert is_absent.nonzero().tolist() == [[1, 12], [2, 0]]
    assert attended[1].sum() == 13 and attended[2].sum() == 1 + batch.attention_mask[2].sum()
    for weights in model(batch, masks, attention=True).attention.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert not weights.transpose(1, 3)[~attended].any()
    model(batch, masks)
    assert model.bert.config._attn_implementation == "sdpa"  # restored after `attention=True`


@torch.no_grad()
def test_patch_scores_are_the_attention_of_the_words(model):
    batch = some_batch(4)
    weights = model(batch, view(batch, 12), attention=True).attention.values()
    words = 12 + batch.maskable[0].nonzero()[:, 0]
    expected = sum(w[0, :, words, 3].mean(0).sum() for w in weights) / len(weights)
    scores = model.patch_scores(batch)
    torch.testing.assert_close(scores[0, 3], expected)
    assert scores.shape == (4, 12) and (scores.sum(1) < batch.maskable.sum(1)).all()


@torch.no_grad()
def test_features_of_an_image_alone_do_not_depend_on_the_caption(model):
    batch = some_batch(4)
    width, other = model.cfg.embed_dim, replace(batch, input_ids=batch.input_ids.roll(1, 0))
    features, changed = model.features(batch), model.features(other)
    assert features.image.shape == features.fused_image.shape == (4, 13, width)
    assert features.text.shape == features.fused_text.shape == (*batch.input_ids.shape, width)
    assert changed.image.equal(features.image)
    assert not changed.fused_image.equal(features.fused_image)
