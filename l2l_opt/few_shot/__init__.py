"""Learning from a handful of examples: theta' = g_phi(theta, S), over many small tasks."""

from l2l_opt.few_shot.adapt import Adapted, Drawn, adapt, draw_episodes
from l2l_opt.few_shot.episodes import ClassEpisodes, EpisodeSource, ImbalancedEpisodes, SinusoidEpisodes
from l2l_opt.few_shot.evaluation import evaluate_learner
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.meta_sgd import MetaSGD
from l2l_opt.few_shot.methods import METHODS, Method, make_method
from l2l_opt.few_shot.models import MODELS, make_model, register_model
from l2l_opt.few_shot.saved_learner import Learner, LearnerConfig, load_learner, save_learner
from l2l_opt.few_shot.sources import EPISODES, make_episodes, register_episodes
from l2l_opt.few_shot.task import EpisodeTask, PartlyAdapted

__all__ = [
    "EPISODES",
    "METHODS",
    "MODELS",
    "Adapted",
    "ClassEpisodes",
    "Drawn",
    "EpisodeSource",
    "EpisodeTask",
    "ImbalancedEpisodes",
    "Learner",
    "LearnerConfig",
    "MetaLearner",
    "MetaSGD",
    "Method",
    "PartlyAdapted",
    "SinusoidEpisodes",
    "adapt",
    "draw_episodes",
    "evaluate_learner",
    "load_learner",
    "make_episodes",
    "make_method",
    "make_model",
    "register_episodes",
    "register_model",
    "save_learner",
]
