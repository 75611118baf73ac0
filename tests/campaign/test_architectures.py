"""Networks of all families with random weights: maps or a reason, and the network as it was."""

from __future__ import annotations

import random
import warnings

import pytest
import support
import torch
from torch import nn

import attnviz
from attnviz.errors import AttnvizError
from attnviz.targets import logits_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TIMM = """
bat_resnext26ts beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 caformer_s18
cait_xxs24_224 coat_tiny coat_lite_tiny coatnet_nano_rw_224 coatnext_nano_rw_224 convformer_s18
convit_tiny convmixer_768_32 convnext_atto convnextv2_atto crossvit_tiny_240 cs3darknet_focus_s
cspdarknet53 cspresnet50 cspresnext50 darknet17 darknetaa53 davit_tiny deit_tiny_patch16_224
deit_tiny_distilled_patch16_224 deit3_small_patch16_224 densenet121 densenetblur121d dla34 dla46_c
dm_nfnet_f0 dpn48b eca_botnext26ts_256 ecaresnet26t ecaresnext26t_32x4d edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnetv2_rw_t efficientvit_b0
efficientvit_m0 ese_vovnet19b_dw eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100
fbnetv3_b focalnet_tiny_srf gcresnet33ts gcresnext26ts gcvit_xxtiny gernet_s ghostnet_050
ghostnetv2_100 gmixer_12_224 gmlp_ti16_224 halonet26t halo2botnet50ts_256 hardcorenas_a hgnet_tiny
hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_atto inception_v3 inception_v4
inception_resnet_v2 lambda_resnet26t lamhalobotnet50ts_256 lcnet_035 legacy_seresnet18 levit_128s
mambaout_femto maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 mixnet_s mnasnet_050
mnasnet_small mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small
mobilenet_edgetpu_v2_xs mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny
nextvit_small nf_resnet26 nfnet_f0 pit_ti_224 pit_ti_distilled_224 poolformer_s12 poolformerv2_s12
pvt_v2_b0 rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnetz_005 repghostnet_050 repvgg_a0
repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d resnet10t resnet18d resnetaa34d resnetblur18
resnetrs50 resnetv2_18 resnext26ts rexnet_100 rexnetr_100 sebotnet33ts_256 sedarknet21
sehalonet33ts selecsls42 semnasnet_050 sequencer2d_s seresnet18 seresnext26d_32x4d shvit_s1
skresnet18 spnasnet_100 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 test_vit test_resnet test_efficientnet test_byobnet
tf_efficientnet_lite0 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small
twins_svt_small vgg11 vgg11_bn visformer_tiny vit_tiny_patch16_224 vit_small_patch14_reg4_dinov2
vit_base_patch16_siglip_224 vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a wide_resnet50_2 xception41
xcit_nano_12_p16_224
""".split()
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d
shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_16
""".split()
TRANSFORMERS = "ViT DeiT Beit Dinov2 Swin Swinv2 ConvNext ConvNextV2 ResNet Hiera".split()
ALL = [("timm", n) for n in TIMM] + [("torchvision", n) for n in TORCHVISION]
ALL += [("transformers", n) for n in TRANSFORMERS]


class Seen:
    """All of a network that a map must leave as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {k: v.clone() for k, v in model.state_dict().items()}
        self.modes = [m.training for m in model.modules()]
        self.flags = [p.requires_grad for p in model.parameters()]
        self.hooks = self._hooks(model)
        self.random = torch.get_rng_state()

    @staticmethod
    def _hooks(model: nn.Module) -> list[int]:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return [len(getattr(m, kind)) for m in model.modules() for kind in kinds]

    def differs(self, model: nn.Module) -> str:
        """Return what is not as it was, or ""."""
        state = model.state_dict()
        checks = {
            "weights": all(torch.equal(v, state[k]) for k, v in self.state.items()),
            "modes": self.modes == [m.training for m in model.modules()],
            "requires_grad": self.flags == [p.requires_grad for p in model.parameters()],
            "gradients": all(p.grad is None for p in model.parameters()),
            "hooks": self.hooks == self._hooks(model),
            "random state": torch.equal(self.random, torch.get_rng_state()),
        }
        return ", ".join(name for name, same in checks.items() if not same)


def faults(source: str, name: str) -> list[str]:
    """Return what goes wrong on one architecture."""
    torch.manual_seed(0)
    model, x = support.SOURCES[source][0](name)
    if x.shape[-1] < 100:  # two of the small ones cost little
        x = torch.cat([x, x.flip(-1)])
    before, found = x.clone(), []
    model.eval()
    with torch.no_grad():
        wanted = logits_of(model(x)).clone()
    model.train()  # where everything that can move does
    seen = Seen(model)
    for method in ("gradcam", "rollout"):
        try:
            maps = attnviz.explain(model, x, method=method, target=1)
        except AttnvizError:
            maps = None
        except Exception as error:
            found.append(f"{method}: {type(error).__name__}: {str(error)[:100]}")
            maps = None
        if maps is not None:
            if len(maps) != len(x) or not bool(maps.values.isfinite().all()):
                found.append(f"{method}: {tuple(maps.values.shape)} maps of {tuple(x.shape)}")
            if maps.logits is not None and not torch.allclose(maps.logits, wanted, atol=1e-4):
                found.append(f"{method}: other logits")
        elif method == "gradcam":
            found.append("gradcam: refused")
        if what := seen.differs(model):
            found.append(f"{method}: changed {what}")
        if not torch.equal(before, x):
            found.append(f"{method}: changed the input")
    model.eval()
    with torch.no_grad():
        again = logits_of(model(x))
    if not torch.equal(wanted, again):
        found.append("answers otherwise afterwards")
    return found


def test_architectures(campaign):
    """Architectures of timm, torchvision and transformers: as they were, to the bit."""
    chosen = random.Random(1).sample(ALL, campaign(len(ALL)))
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, name in chosen:
            if found := faults(source, name):
                wrong[f"{source} {name}"] = found
    assert wrong == {}
