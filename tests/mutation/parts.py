"""Parts of the code in which faults are planted, and the tests that should notice."""

PARTS = {
    "speak": (
        ["core/speak", "core/model/sampling.py"],
        "core/test_pipeline.py core/test_guard.py core/test_server.py core/test_sampling.py"
        " core/test_voice.py core/test_recording.py core/test_guidance.py core/test_word_times.py"
        " core/test_text.py core/test_say.py core/test_commitment.py core/test_replay.py"
        " core/test_speak_edges.py core/test_releases.py"
        " core/test_endings.py core/test_marks.py core/test_say_lines.py core/test_say_threads.py"
        " core/test_text_model.py core/test_reported_bugs.py plugins/test_state_voices.py",
    ),
    "layouts": (
        ["adapters"],
        "adapters/test_cosyvoice2.py adapters/test_cosyvoice2_session.py adapters/test_spark.py"
        " adapters/test_guided_layouts.py adapters/test_xy.py core/test_train_dropping.py"
        " plugins/test_cosyvoice3_lm.py plugins/test_cosyvoice2_lm.py plugins/test_depth_head.py"
        " adapters/test_layout_edges.py",
    ),
    "statistics": (
        ["core/evaluate/statistics"],
        "core/test_statistics.py core/test_verdict.py core/test_metrics.py core/test_contrast.py"
        " core/test_looking.py core/test_ab_factors.py core/test_ab_result.py"
        " core/test_calibration.py core/test_metric_plugins.py plugins/test_recognisers.py",
    ),
    "train": (
        ["core/train"],
        "core/test_train_batches.py core/test_train_dropping.py core/test_train_long.py"
        " core/test_train_precision.py core/test_train_reports.py core/test_train_run.py"
        " core/test_train_shard.py core/test_objective.py core/test_looking.py"
        " core/test_train_edges.py core/test_train_log.py core/test_train_call.py"
        " core/test_train_loop.py core/test_train_repeat.py"
        " core/test_text_in_speech.py core/test_text_model.py core/test_token_index.py"
        " core/test_training_texts.py core/test_narrow.py core/test_adapters.py"
        " plugins/test_distil.py",
    ),
    # Triton's kernels run in its interpreter or on a GPU, where no line of them is seen
    "rwkv7": (
        ["plugins/rwkv7/backbone.py", "plugins/rwkv7/layers.py", "plugins/rwkv7/attention.py",
         "kernels/wkv7/reference.py",
         "kernels/wkv7/chunked.py", "kernels/wkv7/packed.py", "kernels/wkv7/rows.py",
         "kernels/wkv7/step.py", "plugins/rwkv7/engines/native.py",
         "plugins/rwkv7/engines/native_prefill.py"],
        "plugins/test_rwkv7.py plugins/test_rwkv7_engine.py plugins/test_rwkv7_graph.py"
        " kernels/test_wkv7.py plugins/test_rwkv7_parity.py plugins/test_stack.py"
        " kernels/test_wkv7_step.py plugins/test_rwkv7_defaults.py",
    ),
    "weights": (
        ["core/weights"],
        "core/test_weights.py core/test_convert.py core/test_releases.py core/test_wrapping.py"
        " core/test_weights_edges.py core/test_weights_origin.py"
        " core/test_voice.py core/test_train_dropping.py core/test_adapters.py"
        " core/test_train_run.py plugins/test_convert_formats.py plugins/test_peft_files.py"
        " plugins/test_rwkvtts.py plugins/test_rwkv7_convert.py plugins/test_state_voices.py",
    ),
    "serve": (
        ["core/serve"],
        "serve/test_serve_speech.py serve/test_serve_limits.py serve/test_serve_voices.py"
        " serve/test_serve_arms.py serve/test_serve_texts.py serve/test_serve_live.py"
        " serve/test_serve_many.py serve/test_serve_slow.py serve/test_serve_start.py"
        " serve/test_studio.py serve/test_serve_document.py serve/test_serve_hostile.py"
        " serve/test_serve_encoding.py serve/test_serve_job.py serve/test_serve_guard.py"
        " serve/test_serve_patience.py serve/test_serve_settings.py serve/test_serve_folder.py"
        " serve/test_serve_load.py serve/test_serve_pages.py serve/test_serve_answers.py"
        " serve/test_serve_systems.py serve/test_serve_conversation.py",
    ),
}  # fmt: skip
"""Name -> the code that is changed, and the tests that should notice."""

ELSEWHERE = {"core/train/distributed": "tests/core/test_train_shard.py"}
"""Code that runs in processes of its own, where no line is seen -> the tests that begin them."""
