"""The doors of the app: one blueprint per wire protocol or group of routes, in the order of registration."""

from __future__ import annotations

from flask import Blueprint

from flaskml.blueprints import docs, health, models, pages, predict, train

BLUEPRINTS: tuple[Blueprint, ...] = (predict.bp, train.bp, models.bp, health.bp, pages.bp, docs.bp)
