"""The measures of networks: accuracy, the prediction, weights, activations, gradients, the rlct, the observer.

A new measure of every epoch is one entry in MEASURES. Reading the table does not import PyTorch; computing a measure
does.

Reading order: table, epoch, held_out, gradients, formulas.
"""

from trainables.measures.table import MEASURES, Measure, end_measures, epoch_measures, is_end_measure

__all__ = ["MEASURES", "Measure", "end_measures", "epoch_measures", "is_end_measure"]
