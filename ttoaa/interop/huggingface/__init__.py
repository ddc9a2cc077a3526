"""Import and export `Olmo2ForCausalLM` folders: python -m ttoaa.interop.huggingface --help"""
