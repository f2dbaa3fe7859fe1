"""Keys of other programs, and what says the same here.

PaddleClas, PaddleNLP, open_clip, Chinese-CLIP, timm and transformers: whoever comes from them types
these first, and the closest key by its letters is rarely the one that is meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from ernie_vil2.errors import did_you_mean

_RATE = "the learning rate is LRScheduler.learning_rate"
_START = "weights to start from are Global.pretrained"
_RESUME = "a run goes on with --resume auto, or --resume FOLDER, on the command line"
_BATCH = "records per process are DataLoader.Train.batch_size"
_GLOBAL_BATCH = "records of all processes together are DataLoader.Train.global_batch_size"
_PARTS = (
    "DataLoader.Train.micro_batch_size passes a batch in parts, with all its negatives; "
    "Distributed.gradient_merge averages several batches for one step"
)
_HALF = "half precision is AMP.level (O1 or O2) with AMP.dtype (bfloat16 or float16)"
_WARMUP = "the warm-up is LRScheduler.warmup_steps, in optimizer steps"
_EPOCHS = "passes over the data are Global.epochs"
_STEPS = "optimizer steps are Global.max_steps"
_LOG = "steps between lines of the log are Global.log_interval"
_SAVE = "steps between checkpoints are Global.save_interval"
_EVAL = "steps between evaluations are Global.eval_interval"
_CLIP = "the bound of the gradient's norm is Optimizer.clip_norm"
_DECAY = "weight decay is Optimizer.weight_decay"
_RECOMPUTE = "activations are computed again with Arch.Image.recompute and Arch.Text.recompute"
_WORKERS = "processes that read data are DataLoader.Train.num_workers"
_SIZE = "the picture's side is Transform.size, and Arch.Image.img_size the same"
_OUTPUT = "the run's folder is Global.output_dir"
_LENGTH = "tokens of a text are Tokenizer.max_len"
_TRAIN = "the training set is DataLoader.Train.dataset"
_TEST = "the test set is DataLoader.Eval.dataset"
_DEVICE = "the device is Global.device (auto, cpu or gpu)"
_TOWERS = "the towers are Arch.Image.name and Arch.Text.name"
_SAMPLER = "a loader's settings stand under DataLoader.Train itself: " + _BATCH
_EVAL_PIXELS = "how pictures are prepared for evaluation is named by Transform.eval"
_CURVES = "programs that show curves are listed in Global.log_to"
_FREEZE = "towers that do not learn are listed in Optimizer.freeze"
_UNLOCKED = "the last layers that learn are counted in Optimizer.unlocked_layers"
_LORA = "adapters are Arch.Image.lora and Arch.Text.lora, with rank, alpha, modules and dropout"

HINTS = {
    **dict.fromkeys(("lr", "base_lr", "max_lr", "peak_lr", "learning_rate"), _RATE),
    **dict.fromkeys(("pretrained_model", "init_checkpoint", "load_from", "finetune"), _START),
    **dict.fromkeys(("checkpoint", "checkpoints", "resume", "resume_from", "auto_resume"), _RESUME),
    **dict.fromkeys(("batch_size", "batch_size_per_card", "batch_size_per_gpu"), _BATCH),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size"), _BATCH),
    **dict.fromkeys(("total_batch_size", "global_batch", "global_batch_size"), _GLOBAL_BATCH),
    **dict.fromkeys(("accum_freq", "accum_steps", "accumulate_grad_batches"), _PARTS),
    **dict.fromkeys(("gradient_accumulation_steps", "update_freq", "grad_cache"), _PARTS),
    **dict.fromkeys(("amp", "use_amp", "precision", "mixed_precision"), _HALF),
    **dict.fromkeys(("bf16", "fp16", "use_bf16", "use_fp16", "half"), _HALF),
    **dict.fromkeys(("allow_tf32", "use_tf32"), "TensorFloat-32 is AMP.tf32"),
    **dict.fromkeys(("warmup", "warmup_epoch", "warmup_epochs", "warmup_ratio"), _WARMUP),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs", "max_epochs"), _EPOCHS),
    **dict.fromkeys(("steps", "total_steps", "num_train_steps"), _STEPS),
    **dict.fromkeys(("logging_steps", "log_every_n_steps", "print_batch_step"), _LOG),
    **dict.fromkeys(("save_steps", "save_freq", "save_frequency", "save_epoch"), _SAVE),
    **dict.fromkeys(("eval_steps", "eval_freq", "val_frequency", "eval_during_train"), _EVAL),
    **dict.fromkeys(("grad_clip", "clip_grad", "max_grad_norm", "grad_clip_norm"), _CLIP),
    **dict.fromkeys(("wd", "regularizer"), _DECAY),
    **dict.fromkeys(("recompute", "use_recompute"), _RECOMPUTE),
    **dict.fromkeys(("grad_checkpointing", "gradient_checkpointing"), _RECOMPUTE),
    **dict.fromkeys(("workers", "num_workers", "dataloader_num_workers"), _WORKERS),
    **dict.fromkeys(("image_size", "image_shape", "img_size", "resolution"), _SIZE),
    **dict.fromkeys(("report_to", "use_visualdl", "use_vdl", "wandb", "tensorboard"), _CURVES),
    **dict.fromkeys(("save_dir", "logs", "output"), _OUTPUT),
    **dict.fromkeys(("context_length", "max_length", "max_seq_length", "max_seq_len"), _LENGTH),
    **dict.fromkeys(("train_data", "train_file"), _TRAIN),
    **dict.fromkeys(("val_data", "eval_data", "test_data", "dev_file"), _TEST),
    **dict.fromkeys(("use_gpu", "use_cuda", "device"), _DEVICE),
    **dict.fromkeys(("model", "vision_model", "text_model"), _TOWERS),
    **dict.fromkeys(("sampler", "loader"), _SAMPLER),
    **dict.fromkeys(("interpolation", "resize_mode", "resample", "image_mean"), _EVAL_PIXELS),
    **dict.fromkeys(("lock_image", "lock_text", "freeze_vision"), _FREEZE),
    **dict.fromkeys(("lock_image_unlocked_groups", "lock_text_unlocked_layers"), _UNLOCKED),
    **dict.fromkeys(("lora", "lora_rank", "lora_r", "lora_alpha", "lora_dropout"), _LORA),
    **dict.fromkeys(("target_modules", "lora_target_modules"), _LORA),
}


def hint(section: str, name: str, known: Iterable[str]) -> str:
    """What to say after "unknown key": what another program's key is called here, or the closest.

    Args:
        section: that the unknown key stands in, dotted.
        name: the unknown key.
        known: the keys that the section has.
    """
    habit = HINTS.get(name.lower().replace("-", "_"))
    if habit is None or section.startswith("DataLoader.Eval"):  # the hints are of training
        return did_you_mean(name, known)
    return f"; here {habit}"
