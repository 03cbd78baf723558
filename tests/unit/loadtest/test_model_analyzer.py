"""The configuration of Model Analyzer names ensembles and steps that exist."""

import yaml

from tests.helpers.servers import ROOT
from tritonclip_server.repository.configs import ENCODERS, ENSEMBLES, source_configuration


def test_profiled_ensembles_and_their_cpu_steps_exist():
    content = yaml.safe_load((ROOT / "loadtest/model_analyzer.yaml").read_text("utf-8"))
    assert content["run_config_search_mode"] == "quick"
    assert set(content["profile_models"]) <= set(ENSEMBLES)
    steps = {
        step.model_name
        for ensemble in content["profile_models"]
        for step in source_configuration(ensemble).ensemble_scheduling.step
    }
    assert set(content["cpu_only_composing_models"]) == steps - set(ENCODERS)
