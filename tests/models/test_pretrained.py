"Encoders by name: what timm and transformers make of the same weights, what stays frozen, what is refused."

import json
import pickle
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from contract import TOKENIZER, check_hidden_is_hidden, one_thread, pairs_of  # noqa: F401
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError, update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import encode, piece_tokenizer
from mvl_bench.models.base import ImageConfig, TextConfig, load_weights
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_tiny
from mvl_bench.models.pretrained import (
    GridEncoder,
    NamedText,
    NamedViT,
    begin_encoders,
    begin_with,
    encoders_of,
    published_weights,
    read_text_config,
    read_weights,
    timm_model,
    under_names_of,
)
from mvl_bench.models.registry import load
from mvl_bench.training.optim import TrainConfig, make_optimizer

SIZES = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "A text encoder and two files of weights, as somebody else would publish them."
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(7)
    bert = BertModel(BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=40, **SIZES))
    bert.save_pretrained(root / "bert")
    TOKENIZER.save_pretrained(root / "bert")
    made = {name: timm.create_model(name) for name in ("test_vit", "test_efficientnet")}
    save_file(made["test_vit"].state_dict(), root / "vit.safetensors")
    net = {f"their.{i}": x for i, x in enumerate(made["test_efficientnet"].state_dict().values())}
    torch.save(net, root / "net.pth")
    return SimpleNamespace(root=root, bert=bert.eval(), **made)


def named(sources, **changes):
    "A small MaskVLM with both encoders by name."
    given = dict(
        img_size=(64, 96), patch_size=16, mask_size=16, embed_dim=48, num_heads=2, cross_depth=1,
        vocab_size=len(TOKENIZER), pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id,
        timm_model="test_efficientnet", timm_weights=f"{sources.root}/net.pth",
        hf_model=f"{sources.root}/bert", hf_config=read_text_config(f"{sources.root}/bert"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = MaskVLM(update(maskvlm_tiny(), **given | changes))
    begin_encoders(model)
    return model.eval()


def same(model, other):
    return all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@torch.no_grad()
def test_a_vit_is_timms_own_with_positions_resized(sources):
    source, images = f"{sources.root}/vit.safetensors", torch.rand(2, 3, 64, 96)
    ours = NamedViT("test_vit", (64, 96), 64).eval()
    ours.begin(source)
    file = dict(file=source)
    theirs = timm.create_model(
        "test_vit", True, pretrained_cfg_overlay=file, img_size=(64, 96)
    ).eval()
    expected = theirs.forward_features((images - 0.5) / 0.5)
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
    assert not ours.vit.pos_embed.shape == sources.test_vit.pos_embed.shape


@torch.no_grad()
def test_the_ways_of_a_vit_agree(sources):
    encoder, images = NamedViT("test_vit", (64, 96), 48).eval(), torch.rand(3, 3, 64, 96)
    masked = torch.arange(24) < torch.tensor([[0], [9], [24]])
    ways = [encoder(images, masked, way) for way in ("gather", "dense")]
    torch.testing.assert_close(*ways, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_a_grid_is_timms_own_stage(step, sources):
    images = torch.rand(2, 3, 64, 96)
    ours = GridEncoder("test_efficientnet", (64, 96), step, 48).eval()
    ours.begin(f"{sources.root}/net.pth")
    theirs = timm.create_model("test_efficientnet", features_only=True).eval()
    theirs.load_state_dict(sources.test_efficientnet.state_dict(), strict=False)
    found = dict(zip(theirs.feature_info.reduction(), theirs((images - ours.mean) / ours.spread)))
    tokens = ours.to_width(found[step].flatten(2).transpose(1, 2)) + ours.positions
    torch.testing.assert_close(ours(images)[:, 1:], tokens, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_text_is_transformers_own(sources):
    ours = NamedText(read_text_config(f"{sources.root}/bert"), 24, 32).eval()
    assert ours.begin(f"{sources.root}/bert") == ["pooler.dense.bias", "pooler.dense.weight"]
    batch = collate(pairs_of(3), TOKENIZER, 24)
    given = dict(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    found, theirs = ours(**given), sources.bert(**given).last_hidden_state
    torch.testing.assert_close(found[:, 1:], theirs[:, 1:])
    for row, tokens, real in zip(found, theirs, batch.attention_mask.bool()):
        torch.testing.assert_close(row[0], tokens[real].mean(0))


def test_what_is_hidden_reaches_no_grid(sources):
    "The contract's own test, and a planted fault: pixels that are not blanked."
    model = named(sources)
    batch = scenes(3)
    views = model.cfg.build_masking()(batch, (0, 0))
    check_hidden_is_hidden(model, batch, views)
    seeing = model.image_encoder.forward
    model.image_encoder.forward = lambda images, masked=None, way="": seeing(images)
    with pytest.raises(AssertionError):
        check_hidden_is_hidden(model, batch, views)


def scenes(count):
    "Scenes of the named models' size."
    from mvl_bench.data.scenes import Scenes

    world = Scenes("shapes", img_size=(64, 96))
    return collate([world.pair(i) for i in range(count)], TOKENIZER, 24)


@pytest.mark.parametrize("frozen", ["", "image", "text", "image,text"])
def test_what_is_frozen_stays_and_the_rest_learns_gently(frozen, sources):
    model, before = named(sources, frozen=frozen), named(sources, frozen=frozen)
    assert model.to_words[-1].weight.shape[1] != 32  # widths differ: scores begin at random
    cfg = TrainConfig(pretrained_lr_scale=0.1)
    optimizer, batch = make_optimizer(model.train(), cfg), scenes(4)
    losses = model.losses(batch, model.cfg.build_masking()(batch, (0, 0)), model.cfg.step_key(0, 0))
    sum(losses.parts.values()).backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group.get("scale", 1)
    optimizer.step()
    for name in ("image", "text"):
        mine, was = (getattr(m, f"{name}_encoder") for m in (model, before))
        assert same(mine.backbone, was.backbone) == (name in frozen)
        assert not same(mine.to_width, was.to_width)
    assert all(
        a.equal(b)
        for a, b in zip(model.image_encoder.net.buffers(), before.image_encoder.net.buffers())
    )
    scales = {id(p): g.get("scale", 1) for g in optimizer.param_groups for p in g["params"]}
    ours = [p for e in model.encoders for p in e.backbone.parameters() if p.requires_grad]
    assert {scales[id(p)] for p in ours} == ({0.1} if ours else set())
    assert scales[id(model.to_words[-1].weight)] == 1


def test_words_are_scored_by_what_they_mean(sources):
    model = named(sources, embed_dim=32)
    assert model.to_words[-1].weight.equal(sources.bert.embeddings.word_embeddings.weight)


# ---- names of weights


def test_weights_of_the_same_shapes_are_renamed_by_order():
    theirs, ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Module()
    ours.first, ours.second = nn.Linear(3, 4), nn.BatchNorm1d(4)
    load_weights(ours, under_names_of(ours, theirs.state_dict()), "theirs")
    pairs = zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    assert all(a.equal(b) for a, b in pairs)
    with pytest.raises(UserError, match="missing: first.bias.*unused: bias, weight"):
        half = nn.Linear(3, 4).state_dict()
        load_weights(ours, under_names_of(ours, half), "a file")


def test_names_in_common_decide_and_not_the_order():
    swapped = {"second.weight": torch.ones(2, 2), "first.weight": torch.zeros(2, 2)}
    pair = nn.Module()
    pair.first, pair.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    load_weights(pair, under_names_of(pair, swapped), "swapped")
    assert not pair.first.weight.any() and pair.second.weight.all()


# ---- masked patches


def two_images():
    "Two scenes of 64x96 pixels, and other pixels."
    source = Scenes(img_size=(64, 96))
    images = torch.stack([torch.tensor(source.pair(i).image) for i in range(2)])
    images = images.permute(0, 3, 1, 2) / 255
    return images, torch.rand_like(images)


def area_of(mask):
    "The pixels of masked patches of 16 pixels, 4x6 in an image."
    grid = mask.view(-1, 1, 4, 6)
    return grid.repeat_interleave(16, 2).repeat_interleave(16, 3)


@torch.no_grad()
@pytest.mark.parametrize(
    "build",
    [
        lambda: NamedViT("test_vit", (64, 96), 48),
        lambda: GridEncoder("test_efficientnet", (64, 96), 16, 48),
    ],
)
def test_masked_pixels_change_no_token(build):
    torch.manual_seed(0)
    encoder, (images, other), masked = build().eval(), two_images(), torch.rand(2, 24) < 0.4
    tokens, area = encoder(images, masked), area_of(masked)
    assert tokens.shape == (2, 25, 48) and not tokens[:, 1:][masked].any()
    assert encoder(other.where(area, images), masked).equal(tokens)
    assert not encoder(images.where(area, other), masked).equal(tokens)
    assert torch.allclose(encoder(images[[1]], masked[[1]])[0], tokens[1], atol=1e-5)


@torch.no_grad()
def test_without_blanking_a_patch_changes_the_tokens_around_it():
    torch.manual_seed(0)
    grid, (images, other) = GridEncoder("test_efficientnet", (64, 96), 16, 48).eval(), two_images()
    spot = (torch.arange(24) == 14).expand(2, 24)
    moved = (grid(other.where(area_of(spot), images)) - grid(images)).norm(dim=-1)[0, 1:]
    assert (moved > 0).sum() > 1


# ---- from a configuration


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    "A BERT with a tokenizer of word pieces, saved in a folder."
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pieces")
    tokenizer = piece_tokenizer(Scenes(img_size=(64, 96)).captions(200), 300)
    sizes = SIZES | dict(num_hidden_layers=2, max_position_embeddings=40)
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    bert.save_pretrained(folder)
    return SimpleNamespace(folder=str(folder), bert=bert, tokenizer=tokenizer)


def config_of(folder="", **image):
    "What `encoders_of` needs of a configuration."
    defaults = dict(img_size=(64, 96), patch_size=16, timm_model="test_vit")
    text = TextConfig(vocab_size=50)
    if folder:
        text = replace(text, hf_model=folder, hf_config=read_text_config(folder))
    return SimpleNamespace(
        image=ImageConfig(**defaults | image), text=text, embed_dim=32, num_heads=2, image_depth=1,
        text_depth=1, frozen="image", mask_token_at="cross",
    )  # fmt: skip


@torch.no_grad()
def test_published_tokens_go_through_the_width_adapter(published):
    text = NamedText(read_text_config(published.folder), 24, 48).eval()
    assert text.begin(published.folder) == ["pooler.dense.bias", "pooler.dense.weight"]
    ids, real, _ = encode(published.tokenizer, ["a red circle", "two stars on a grey ground"], 24)
    theirs = published.bert(input_ids=ids, attention_mask=real).last_hidden_state
    torch.testing.assert_close(text(ids, real)[:, 1:], text.to_width(theirs)[:, 1:])


def test_a_frozen_encoder_still_has_a_trainable_adapter():
    image, text = encoders_of(config_of())
    assert not any(p.requires_grad for p in image.vit.parameters())
    assert image.to_width.weight.requires_grad
    assert all(p.requires_grad for p in text.parameters())


@pytest.mark.parametrize(
    "name, patch_size, message",
    [
        ("test_vitt", 16, "'test_vitt' is no model of timm"),
        ("test_vit", 8, "patch_size 8: timm_model 'test_vit' has 16"),
        ("test_efficientnet", 7, "are 2, 4, 8, 16, 32 pixels wide"),
    ],
)
def test_sizes_that_a_network_lacks_are_refused(name, patch_size, message):
    sizes = dict(img_size=(112, 112), timm_model=name, patch_size=patch_size)
    with pytest.raises(UserError, match=message):
        encoders_of(config_of(**sizes))


def test_the_word_head_starts_with_the_word_embeddings(published):
    cfg, words = config_of(published.folder), published.bert.get_input_embeddings().weight
    head = nn.Linear(*words.shape[::-1])
    model = SimpleNamespace(cfg=cfg, encoders=encoders_of(cfg), to_words=[head])
    assert begin_encoders(model) == ["pooler.dense.bias", "pooler.dense.weight"]
    text = model.encoders[1].backbone
    assert text.get_input_embeddings().weight.equal(words) and head.weight.equal(words)
    ours = {id(p) for p in published_weights(model)}  # the image encoder's weights are random
    assert ours == {id(p) for p in text.parameters()}


# ---- what is refused


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def test_weights_that_are_none(tmp_path, sources, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(dict(a=Evil())))
    torch.save(dict(a=Evil()), tmp_path / "evil2.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    (tmp_path / "half.safetensors").write_bytes(
        (sources.root / "vit.safetensors").read_bytes()[:999]
    )
    (tmp_path / "half.pth").write_bytes((sources.root / "net.pth").read_bytes()[:999])
    for name in ("evil.pth", "evil2.pth", "list.pth", "half.pth", "half.safetensors", "none.pth"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            read_weights(tmp_path / name)
    assert "this ran" not in capsys.readouterr().out


def test_keys_are_named(tmp_path, sources):
    whole = load_file(sources.root / "vit.safetensors")
    lost = whole.pop("blocks.0.norm1.weight")
    save_file(whole | dict(strange=lost), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"missing: blocks\.0\.norm1\.weight.*unused: strange"):
        begin_with(timm_model("test_vit", (64, 96)), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="unused"):
        load_weights(nn.Linear(2, 2), dict(nn.Linear(2, 2).state_dict(), more=lost), "x")
    partly = dict(
        zip(
            ["0.weight", "0.bias", "x", "y"],
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict().values(),
        )
    )
    assert under_names_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), partly) is partly


def test_text_weights_that_are_missing_are_named(tmp_path, sources):
    weights = sources.bert.state_dict()
    weights.pop("encoder.layer.0.output.dense.weight")
    sources.bert.config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata=dict(format="pt"))
    text = NamedText(read_text_config(str(tmp_path)), 24, 32)
    with pytest.raises(UserError, match="lacks encoder.layer.0.output.dense.weight"):
        text.begin(str(tmp_path))


def test_a_window_that_is_too_short(tmp_path):
    sizes = dict(SIZES, vocab_size=50, max_position_embeddings=20, pad_token_id=1)
    RobertaModel(RobertaConfig(**sizes)).save_pretrained(tmp_path)
    NamedText(read_text_config(str(tmp_path)), 18, 32)
    with pytest.raises(UserError, match="max_text_len 19 is over the 18"):
        NamedText(read_text_config(str(tmp_path)), 19, 32)


# ---- the command line


def run(capfd, words):
    "Exit code and what was said on stderr."
    code = main(shlex.split(words))
    return code, capfd.readouterr().err


TRAIN = "train --data scenes:shapes --out run --steps 2 --set batch_size=4 img_size=64 patch_size=16 mask_size=16 cross_depth=1 workers=0 "


def test_trained_from_published_weights_and_loaded_without_them(
    tmp_path, monkeypatch, capfd, sources
):
    monkeypatch.chdir(tmp_path)
    for name in ("bert", "vit.safetensors"):
        (tmp_path / name).symlink_to(sources.root / name)
    both = "timm_model=test_vit timm_weights=vit.safetensors hf_model=bert frozen=text"
    code, said = run(capfd, TRAIN + both)
    assert code == 0 and "not used of bert: pooler.dense.bias, pooler.dense.weight" in said
    (tmp_path / "bert").unlink(), (tmp_path / "vit.safetensors").unlink()
    model = load("run")
    assert (
        same(model.text_encoder.backbone, BertModel(sources.bert.config, add_pooling_layer=False))
        is False
    )
    kept = {k: v for k, v in sources.bert.state_dict().items() if "pooler" not in k}
    assert all(v.equal(kept[k]) for k, v in model.text_encoder.backbone.state_dict().items())
    assert json.loads(model.cfg.text.hf_config)["model_type"] == "bert"
    code, said = run(capfd, TRAIN.replace("--steps 2", "--steps 2 --resume") + both)
    assert code == 0, said


def test_a_published_cnn_that_learns_is_saved_and_goes_on(tmp_path, monkeypatch, capfd, sources):
    "Stopped after two steps of four it ends with the same bytes as one that was not."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").symlink_to(sources.root / "net.pth")
    asked = TRAIN.replace("--steps 2", "--steps 4 --resume") + (
        "timm_model=test_efficientnet timm_weights=net.pth precision=fp32 save_every=2 warmup=0"
    )
    assert run(capfd, asked.replace("run", "straight").replace("--resume", ""))[0] == 0
    shutil.copytree("straight", "run", ignore=shutil.ignore_patterns("step-00000004"))
    assert run(capfd, asked)[0] == 0
    ends = [read_weights(f"{out}/checkpoints/step-00000004/model.safetensors") for out in ("straight", "run")]  # fmt: skip
    assert all(ends[0][k].equal(v) for k, v in ends[1].items())
    begun = read_weights("net.pth")["their.0"]
    assert not ends[1]["image_encoder.net.conv_stem.weight"].equal(begun)


def test_slow_copies_begin_as_the_weights_that_were_put_in(tmp_path, monkeypatch, capfd, sources):
    "Published ones, and those of a checkpoint that had no contrast; with momentum 1 they stay so."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").symlink_to(sources.root / "bert")
    contrast = " itc=1 queue_size=0 momentum=1"
    assert run(capfd, TRAIN + "hf_model=bert" + contrast)[0] == 0
    kept = {k: v for k, v in sources.bert.state_dict().items() if "pooler" not in k}
    slow = load("run").contrast.slow[1].backbone.state_dict()
    assert slow.keys() == kept.keys() and all(v.equal(kept[k]) for k, v in slow.items())

    assert run(capfd, TRAIN.replace("run", "plain") + "embed_dim=32 num_heads=2")[0] == 0
    code, said = run(capfd, TRAIN.replace("run", "more") + "init_from=plain" + contrast)
    assert code == 0 and "contrast.to_image.weight" in said and "contrast.slow" not in said
    begun, more = load("plain"), load("more")
    for copy, encoder in zip(more.contrast.slow, begun.encoders):
        assert all(v.equal(encoder.state_dict()[k]) for k, v in copy.state_dict().items())


@pytest.mark.parametrize(
    "words, says",
    [
        ("timm_model=resnet51", "resnet51"),
        ("timm_model=test_vit patch_size=8 mask_size=8", "patch_size 8"),
        ("timm_model=test_efficientnet patch_size=64 mask_size=64", "2, 4, 8, 16, 32"),
        ("timm_model=test_efficientnet mask_token_at=input", "takes no [MASK]"),
        ("timm_model=test_vit timm_weights=nowhere.pth", "nowhere.pth"),
        ("timm_model=test_vit timm_weights=hub", "'test_vit'"),
        ("timm_weights=some.pth", "some.pth"),
        ("hf_model=nowhere", "nowhere"),
        ("frozen=all", "frozen 'all'"),
    ],
)
def test_a_mistake_gets_one_line(words, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, said = run(capfd, TRAIN + words)
    assert code == 2 and said.count("\n") == 1 and says in said and not (tmp_path / "run").exists()
