# SPDX-License-Identifier: Apache-2.0
"""Measurements that the README quotes; each is a module to run."""
