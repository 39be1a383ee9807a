"""A random Llama of two layers with a byte-level tokenizer, in a real Hugging Face folder.

It says nonsense, and that is its use: broken characters, stops anywhere, all tokens likely.
"""

from __future__ import annotations

from pathlib import Path

from actors.contracts import ModelCard

EOS = "<|end|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog and the dog is not amused at all",
    "naïve façade, 中文字符 и кириллица, smile 😀😃 and more 😀",
    "user assistant system\n the sea, the sea, the open sea",
]


def make(folder: Path, *, seed: int = 0, head_dim: int = 8) -> Path:
    """Write the model into `folder`; the same seed gives the same weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|start|>", EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, chat_template=TEMPLATE
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # a model may have ids that no token uses
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=640,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def card(folder: Path, *, context: int = 512, dtype: str = "float32") -> ModelCard:
    """The card of a model in `folder`."""
    return ModelCard(
        name="tiny",
        version="1",
        engine="transformers",
        source=str(folder),
        context=context,
        dtype=dtype,
    )
