"""Hugging Face `Olmo2ForCausalLM` folders in and out: python -m ttoaa.model.huggingface --help"""
