"""Any timm model may be trained: one small model of each family of timm's, at its own size and at others."""

from collections.abc import Iterable

import pytest
import timm
import torch

from fastlt.backbone.create import backbone_arguments, create_backbone
from fastlt.classifier import Classifier
from fastlt.label_space import LabelSpace
from fastlt.recipe import ModelRecipe, Recipe

pytestmark = pytest.mark.slow

# The smallest of each module of timm's, of those that are made for images of ordinary size.
SMALL = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla34",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_siglip",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p16_224",
}
SPACE = LabelSpace(("a", "b"), ("c",), (5, 5, 5), ((0, 2),))


def classifier(name: str, size: int) -> Classifier:
    optimizer = {"epochs": 1, "batch_size": 2, "blr": 0.1}
    data = {"path": "nowhere", "image_size": size}
    recipe = Recipe(output="nowhere", data=data, model={"name": name}, optimizer=optimizer)
    return Classifier(recipe, SPACE)


def is_heavy(name: str, size: int) -> bool:
    """Whether a step takes long: parameters times patches."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters()) * size**2 > 2e12


def train_a_step(name: str, size: int) -> None:
    """A real step; of heavy models, forward and backward of their shapes alone."""
    if is_heavy(name, size):
        with torch.device("meta"):
            create_backbone(ModelRecipe(name=name), size).train()(torch.rand(2, 3, size, size)).sum().backward()
        return
    model = classifier(name, size)
    before = model.head.weight.detach().clone()
    model.train()(torch.rand(2, 3, size, size), torch.tensor([0, 2])).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.head.weight, before)
    assert model.head.weight.isfinite().all()
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.backbone.parameters())


def known(names: Iterable[str]) -> list[str]:
    """Those that the timm at hand has."""
    return [name for name in names if timm.is_model(name)]


def test_no_family_is_forgotten():
    assert set(timm.list_modules()) - set(SMALL) == set()


@pytest.mark.parametrize("name", known(SMALL.values()))
def test_trains_at_its_own_size(name):
    train_a_step(name, timm.get_pretrained_cfg(name).input_size[-1])


@pytest.mark.parametrize("name", known(SMALL.values()))
def test_takes_another_size_or_says_why_not(name):
    """100 is no multiple of any patch or window; `backbone_arguments` has the model take an image of that size."""
    said = ""
    try:
        backbone_arguments(ModelRecipe(name=name), 100)
    except ValueError as error:
        said = str(error)
    own = timm.get_pretrained_cfg(name).input_size[-1]
    refusal = f"cannot take images of data.image_size=100; its own size is data.image_size={own}"
    assert not said or (refusal in said and "\n" not in said)


@pytest.mark.parametrize(
    "name", known(["test_vit", "test_resnet", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
)
def test_trains_at_another_size(name):
    train_a_step(name, 96)
