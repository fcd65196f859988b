"""The language model's forward pass over a training batch, without the work whose result nobody looks at."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from batches import Batch
from maxent_ts.models.softprompt import SoftPromptModel

__all__ = ["answer_states"]


def answer_states(model: SoftPromptModel, batch: Batch, patches: torch.Tensor) -> torch.Tensor:
    """Return the final hidden states from each row's last prompt position on.

    The shared head goes through the model once for all rows. The last layer computes keys and values everywhere but queries
    only where a token is predicted, which spares about a sixth of a step.

    Args:
        model: its language model is a Llama.
        batch: the rows.
        patches: encoder output for `batch.series`.

    Returns:
        Tensor of shape [rows, longest answer, hidden size]; entry [r, i] predicts answer token i of row r. What lies beyond
        a row's answer is meaningless.
    """
    decoder = model.language_model.model
    *layers, last = decoder.layers
    rows = decoder.embed_tokens(batch.ids).masked_scatter(batch.is_patch[..., None], model.projector(patches))
    past = decoder(input_ids=batch.head[None], use_cache=True).past_key_values
    past.batch_repeat_interleave(len(rows))
    num_head, num_rows, length = len(batch.head), len(rows), rows.shape[1]
    positions = torch.arange(num_head, num_head + length)[None]
    cosine, sine = decoder.rotary_emb(rows, positions)
    keys_before = torch.arange(num_head + length)
    mask = (keys_before <= positions[0, :, None])[None, None]
    hidden = rows
    for layer in layers:
        hidden = layer(
            hidden, attention_mask=mask, past_key_values=past, position_embeddings=(cosine, sine), position_ids=positions
        )

    attention = last.self_attn
    normed = last.input_layernorm(hidden)
    columns = (batch.prompt_ends[:, None] + torch.arange(batch.longest_answer)).clamp(max=length - 1)
    chosen = torch.arange(num_rows)[:, None], columns

    def split(states: torch.Tensor) -> torch.Tensor:
        return states.view(num_rows, states.shape[1], -1, attention.head_dim).transpose(1, 2)

    query, key, value = split(attention.q_proj(normed[chosen])), split(attention.k_proj(normed)), split(attention.v_proj(normed))
    query = apply_rotary_pos_emb(query, query, cosine[0][columns], sine[0][columns])[0]
    key = apply_rotary_pos_emb(key, key, cosine, sine)[0]
    key, value = past.update(key, value, attention.layer_idx)
    visible = keys_before <= (num_head + columns)[:, None, :, None]
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=attention.scaling)
    states = hidden[chosen] + attention.o_proj(attended.transpose(1, 2).reshape(num_rows, columns.shape[1], -1))
    states = states + last.mlp(last.post_attention_layernorm(states))
    return decoder.norm(states)
