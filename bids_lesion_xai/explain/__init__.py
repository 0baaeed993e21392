# SPDX-License-Identifier: Apache-2.0
"""Explanations of single lesions: saliency of the network's input images."""
