"""Published architectures and what an expert calls their blocks, against what is chosen.

Run with ``make zoo-check``; needs Transformers, torchvision, timm and diffusers.
"""
