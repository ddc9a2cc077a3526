"""Hugging Face `Olmo2ForCausalLM` folders in and out: python -m ttoaa.interop.huggingface --help"""
