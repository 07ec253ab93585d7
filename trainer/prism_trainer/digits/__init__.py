"""The quickstart's inputs, made on the spot: a tiny Qwen3-VL and handwritten-digit questions.

`python -m prism_trainer.digits --out DIR --seed N` is the only entrance. Nothing here knows of runs
or stages.

images, questions -> scenes, teachers -> tables, faults    the data sets, without torch
tokenizer -> processor -> tiny_model                       the model
contents                                                   both, into an empty folder
folder                                                     that folder, whole or not at all
"""
