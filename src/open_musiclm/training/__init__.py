"""Training stages with `transformers.Trainer`, and fitting codebooks.

    TokenDataset ── CropCollator ──→ what a stage's forward takes ── Trainer ──→ a stage

Needs the extra `train` (`pip install open-musiclm[train]`).
"""

from ..lazily import attributes_from

_MODULE_OF = {
    "CropCollator": "crops",
    "recommended_training_arguments": "arguments",
    "find_batch_size": "batch_size",
    "recommended_optimizer": "optimizer",
    "StageAdamW": "optimizer",
    "stage_metrics": "metrics",
    "check_tokens": "checks",
    "StuckLossCallback": "callbacks",
    "LogAtCheckpointsCallback": "callbacks",
    "FiniteNumbersCallback": "callbacks",
    "TrainingProgressCallback": "callbacks",
    "SealCheckpointsCallback": "callbacks",
    "assemble_pipeline": "assemble",
    "GuidanceDistillation": "guidance_distillation",
    "add_lora": "lora",
    "load_lora": "lora",
    "merge_lora": "lora",
    "save_lora": "lora",
    "push_lora": "lora",
    "last_complete_checkpoint": "checkpoints",
    "train_stage": "stage_training",
    "TrainingPlan": "plan",
    "ResidualKMeans": "residual_kmeans",
    "fit_codebooks": "codebook_fitting",
}

__all__ = [*_MODULE_OF]


__getattr__ = attributes_from(__name__, _MODULE_OF)
