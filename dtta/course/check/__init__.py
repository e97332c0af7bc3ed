"""The public checks, by the name of the function that a student writes: ``check.forward_process(forward_process)``.

A check calls the function on small tensors and compares. It prints a line if all is right, and otherwise raises
``Wrong``: what was expected, what came, and a likely reason. One file for each assignment.
"""

from dtta.course.check.a1 import forward_process, linear_schedule, loss_by_timestep, loss_per_sample, rank_classes
from dtta.course.check.a2 import (
    depth_condition,
    gradient_in_parts,
    mix_classes,
    mix_pixels,
    mix_top_classes,
    mixture_gradient,
)
from dtta.course.check.a3 import (
    adapt_and_restore,
    adapt_step,
    entropy_gradient,
    evaluate_episodic,
    paired_interval,
    tent_step,
)
from dtta.course.check.a4 import agreement, confusion_matrix, evaluate_iou, mean_class_accuracy, mean_iou, uncertain_map
from dtta.course.check.a5 import distance_errors, log_depth, log_depth_gradient, scale_and_shift, ssim_window
from dtta.course.check.a6 import clip_logits, initial_lora, lora_output, merged_weight, name_vectors, token_mixture
from dtta.course.check.a7 import (
    antithetic_times,
    block_means,
    gradient_noise,
    importance_weights,
    snr_weights,
    stratified_times,
)
from dtta.course.check.a8 import (
    descend_logits,
    ensemble_logits,
    episode,
    select_parameters,
    sgd_with_resets,
    shrink_to_start,
)
from dtta.course.check.project import choose_setting, gain_interval, verdicts
from dtta.course.judge import Student, Wrong
from dtta.course.runner.variants import generator, normal, numbers, variant
