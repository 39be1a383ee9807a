"""The tiny Llama of `tests.support.tiny` as a GGUF file: the same weights, the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.contracts import ModelCard
from tests.support import tiny

HEADS, KEY_HEADS, HEAD_DIM, LAYERS = 6, 2, 8, 2
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make(folder: Path, *, seed: int = 0) -> Path:
    """Write `tiny.gguf` into `folder`, beside the Hugging Face folder `tiny` it is made of."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    source = tiny.make(folder / "tiny", seed=seed)
    weights = load_file(source / "model.safetensors")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = len(weights["model.embed_tokens.weight"])
    _add_shape(writer, vocabulary)
    _add_tokenizer(writer, tokenizer, vocabulary)
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(LAYERS):
        for theirs, ours in NAMES.items():
            tensor = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in {"attn_q", "attn_k"}:  # rotary pairs stand side by side in ggml
                heads = HEADS if ours == "attn_q" else KEY_HEADS
                tensor = (
                    tensor.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
                )
            writer.add_tensor(f"blk.{layer}.{ours}.weight", np.ascontiguousarray(tensor))
    _write(writer)
    return path


def make_qwen(folder: Path, kind: str) -> Path:
    """Write `{kind}.gguf` (qwen2, qwen3) into `folder`, beside the Hugging Face folder `{kind}` of
    the same weights, which has the words of the tiny Llama at `folder`/tiny."""
    import gguf
    import torch
    import transformers
    from safetensors.numpy import load_file

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tiny")
    size = len(tokenizer)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind.capitalize()}Config")(
        vocab_size=size,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=640,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    source = folder / kind
    getattr(transformers, f"{kind.capitalize()}ForCausalLM")(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    path = folder / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, kind)
    _add_shape(writer, size)
    _add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), size)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), LAYERS)
    for name, tensor in load_file(source / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor)
    _write(writer)
    return path


def _add_shape(writer: Any, vocabulary: int) -> None:
    writer.add_context_length(640)
    writer.add_embedding_length(HEADS * HEAD_DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(vocabulary)


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, parsed: dict[str, Any], size: int) -> None:
    import gguf

    vocab: dict[str, int] = parsed["model"]["vocab"]
    special = {token["id"] for token in parsed["added_tokens"]}
    words = {at: word for word, at in vocab.items()}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([words.get(at, f"[unused{at}]") for at in range(size)])
    writer.add_token_types(
        [
            kinds.CONTROL if at in special else kinds.NORMAL if at in words else kinds.UNUSED
            for at in range(size)
        ]
    )
    writer.add_token_merges([" ".join(pair) for pair in parsed["model"]["merges"]])
    writer.add_eos_token_id(vocab[tiny.EOS])
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny.TEMPLATE)


def card(path: Path, *, context: int = 512) -> ModelCard:
    """The card of the model in `path`."""
    return ModelCard(name="tiny", version="1", engine="gguf", source=str(path), context=context)
