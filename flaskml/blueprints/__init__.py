"""The doors: one blueprint each, listed in the order they are registered."""

from __future__ import annotations

from flask import Blueprint

from flaskml.blueprints import docs, health, models, pages, predict, train

BLUEPRINTS: tuple[Blueprint, ...] = (predict.bp, train.bp, models.bp, health.bp, pages.bp, docs.bp)
