"""Folders of Hugging Face's `Olmo2ForCausalLM`: config, tokenizer files, weights."""
