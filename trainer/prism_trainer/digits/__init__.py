"""The quickstart's inputs, made on the spot: a tiny Qwen3-VL and questions about handwritten digits.

`python -m prism_trainer.digits --out DIR --seed N` is the only entrance; it knows nothing of runs or stages.

images, questions -> scenes, teachers -> tables, faults    the data, without torch
tokenizer -> processor -> tiny_model                       the model
folder                                                     both, written as one complete folder
"""
