"What a user calls: for `from fastmix.all import *`, after `from fastai.vision.all import *`"
from torch.distributions import Beta
from fastmix.core import Fixed, blend, mix, patches, draw_weights, partners, top2_ceiling
from fastmix.losses import HeadsLoss
from fastmix.models import MultiSample, multi_sample_model, to_single, cifar_resnet
from fastmix.models import resnet20, resnet32, resnet44, resnet56, resnet110
from fastmix.metrics import Top2, Top2All, HeadAccuracy, HeadMetric, CalibrationError, Brier
from fastmix.training import nesterov_sgd, StepDecay, DevicePrecision, set_precision
from fastmix.resuming import Checkpoint, RunLog
from fastmix.processes import leave_processes
from fastmix.data import MultiSampleDL, MultiSampleDataLoaders, MultiSampleDataBlock
from fastmix.memory import InMemoryDL, PadCrop, in_memory
from fastmix.datasets import digits_dls, digit_image, digit_label, cifar_dls
from fastmix.callback import Mix, Mixup, MixupX, MixupL, MixupXL, SamplePairing, CutMixup, MixChoice
from fastmix.callback import MixupC, rhythm, until, fade
from fastmix.learner import MixupLearner, MultiSampleLearner, mixup_c_learner, mixup_learner
from fastmix.shipping import load_weights
import fastmix.show
