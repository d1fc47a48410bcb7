"""Every command that README.md and docs/ show, and what shows that it works.

That is a test, a Make target, or a reason why only a real Spark (or a laptop beside it) can show it;
tests/unit/style/test_documents.py holds the documents to it. A playbook stands here as
`NAME.yml OPTIONS`, whatever inventory and path a document writes it with.
"""

from __future__ import annotations

REPAIR = "tests/e2e/test_2_repair.py::test_an_altered_unit_is_repaired_and_the_engine_goes_on"
DRIFT = "tests/e2e/test_9_fleet.py::test_two_alterations_are_found_and_no_others"
SMOKE = "tests/e2e/test_7_smoke.py::test_every_part_passes"
STATUS = "tests/e2e/test_9_release.py::test_status_is_one_screen_and_changes_nothing"
BACK = "tests/e2e/test_9_release.py::test_forward_and_back"
TEARDOWN = "tests/e2e/test_9_teardown.py::test_teardown_removes_what_is_ours_and_site_makes_it_anew"
PINS = "tests/unit/contract/test_preflight.py::test_pinning_fills_what_is_empty_and_keeps_the_rest"
PREFLIGHT = (
    "tests/unit/contract/test_preflight.py::test_a_fresh_inventory_is_refused_for_its_empty_pins_alone"
)
GATEWAY = "tests/e2e/test_9_gateway.py::test_a_second_run_changes_nothing"
ROUTES = "tests/e2e/test_9_gateway.py::test_strangers_are_refused_and_holders_of_a_key_get_the_allowed_routes"
DRAIN = "tests/e2e/test_9_gateway.py::test_a_drain_lets_a_running_stream_end_and_takes_no_more"
HANDMADE = "tests/e2e/test_9_safety.py::test_an_engine_started_by_hand_is_named_and_on_request_replaced"
BUNDLE = "tests/e2e/test_9_diagnostics.py::test_ten_planted_secrets_are_in_no_bundle"
MAINTAIN = "tests/unit/maintain/test_maintain.py::test_a_host_out_of_reach_stops_it"
ROLLOUT = "tests/integration/rollout/test_traps.py::test_a_host_left_out_by_name_does_not_stop_it"
LOOKS = "tests/e2e/test_9_commands.py::test_what_the_documents_look_at_on_a_spark"
STARTS = "tests/e2e/test_9_commands.py::test_what_the_documents_do_on_a_spark"
VAULT = "tests/unit/diagnostics/test_bundle.py::test_the_playbook_knows_the_inventorys_secrets"
HASHED = "tests/e2e/test_9_commands.py::test_every_model_file_is_read_again"
CARRIED = "tests/e2e/test_9_island.py::test_bundle_makes_hosts_speak_that_no_route_leads_away_from"
DEPOT = "tests/e2e/test_9_carry.py::test_image_comes_through_the_depot_under_its_own_name_and_digest"
PING = "tests/e2e/test_9_commands.py::test_ansible_reaches_every_host"

# Read-only, on a Spark as root; LOOKS runs each.
ON_A_SPARK = (
    "systemctl status vllm vllm-guard",
    "systemctl status vllm vllm-guard voicebot",
    "ps -eo rss,pid,args --sort=-rss | head",
    "docker stats --no-stream",
    "docker inspect vllm",
    "docker ps",
    "nvidia-smi",
    "free --gibi",
    "df -h / /srv /var/lib/docker",
    "ss -Hltnp",
    "timedatectl show --property=NTPSynchronized",
    "cat /etc/dgx-release",
    "uname -m",
    "ls /var/lib/vllm-guard/incidents",
    "curl -s http://127.0.0.1:8001/state",
    "curl -s http://127.0.0.1:8080/health",
    "curl -s http://127.0.0.1:8000/metrics",
    "journalctl -u vllm -n 100",
    "journalctl -u voicebot -n 100",
    "/opt/voicebot/current/bin/voicebot doctor",
)
# As above, but silent, with exit code 1, where there is nothing to tell.
ON_A_SPARK_OR_NOTHING = (
    "ls /var/lib/vllm-guard/drain*",
    "journalctl -k -g oom",
    "journalctl -k -g NVRM",
)
# These change something, and leave it as it was; STARTS runs each, in this order.
DONE_ON_A_SPARK = (
    "touch /var/lib/vllm-guard/drain.operator",
    "rm /var/lib/vllm-guard/drain.operator",
    "systemctl reset-failed vllm; systemctl start vllm",
    "systemctl restart voicebot",
)

RUN_BY: dict[str, str] = {
    "make setup": "make setup",
    "make setup && . .venv/bin/activate": "make setup",
    "make demo": "make demo",
    "make test": "make test",
    "make test-long": "make test-long",
    "make lab": "make lab",
    "make clean": "make clean",
    "make purge": "make purge",
    "cp -r inventory/example inventory/home": PREFLIGHT,
    "pin.yml": PINS,
    "pin.yml -e pin_update=true": PINS,
    "preflight.yml": PREFLIGHT,
    "site.yml": REPAIR,
    "site.yml --check --diff": DRIFT,
    "site.yml --limit spark-a": DRIFT,
    "site.yml -e vllm_replace_handmade=true": HANDMADE,
    "site.yml -e model_store_verify=full": HASHED,
    "ansible -m ping": PING,
    "ansible -i inventory/home spark -m ping": PING,
    "smoke.yml": SMOKE,
    "drift.yml": DRIFT,
    "drift.yml -e drift_report=drift.json": DRIFT,
    "status.yml": STATUS,
    "status.yml -e status_report=status.json": "tests/e2e/test_9_fleet.py::"
    "test_status_of_three_hosts_costs_little_more_than_asking_for_their_facts",
    "rollback.yml": BACK,
    "rollback.yml -e rollback_to=3f9a": BACK,
    "rollback.yml -e rollback_to=…": BACK,
    "prefetch.yml": BACK,
    "rollout.yml": ROLLOUT,
    "rollout.yml --limit '!spark-b'": ROLLOUT,
    "teardown.yml -e teardown_confirm=<host>": TEARDOWN,
    "gateway.yml": GATEWAY,
    "diagnostics.yml": BUNDLE,
    "diagnostics.yml --limit spark-a": BUNDLE,
    "maintain.yml": MAINTAIN,
    "maintain.yml --limit '!spark-b'": MAINTAIN,
    "maintain.yml -e maintain_update=none -e maintain_reboot=always": MAINTAIN,
    "bundle.yml -e bundle_action=export -e bundle_path=/media/disk/bundle "
    "-e bundle_key=$PWD/bundle-key": CARRIED,
    "bundle.yml -e bundle_action=import -e bundle_path=/media/disk/bundle -e bundle_signers=$HOME/signers "
    "-e depot_path=$HOME/depot": CARRIED,
    "site.yml -e depot_path=$HOME/depot": CARRIED,
    "site.yml --tags voicebot,python_venv": "make molecule",
    'curl --cacert ca.crt -H "Authorization: Bearer $key" https://gate/v1/models': ROUTES,
    "ansible-vault encrypt_string --name model_store_token 'hf_…'": VAULT,
    **dict.fromkeys((*ON_A_SPARK, *ON_A_SPARK_OR_NOTHING), LOOKS),
    **dict.fromkeys(DONE_ON_A_SPARK, STARTS),
}

# What the suite cannot run, and why.
REAL: dict[str, str] = {
    "ssh-copy-id nvidia@spark-xxxx.local": "a password that somebody types",
    "ssh nvidia@spark-xxxx.local": "a Spark in the local network",
    "ssh-keygen -t ed25519": "somebody who chooses a passphrase",
    "ssh -N -L 8080:127.0.0.1:8080 you@spark-xxxx.local": "a laptop beside a Spark",
    "xdg-open http://localhost:8080": "a desktop",
    ".venv/bin/voicebot ask question.wav": "a laptop that is connected to a Spark",
    "read -rs HF_TOKEN && export HF_TOKEN": "somebody who types",
    "key=$(openssl rand -hex 32)": "makes a key for its holder; tests make theirs likewise",
    'printf %s "$key" | sha256sum': "as above",
    "curl -s 127.0.0.1:8405/metrics | grep server_status": "a gateway with several Sparks",
    "cd /media/disk/bundle": "a disk that was carried; the next lines likewise",
    "ssh-keygen -Y verify -f ~/signers -I you@example -n spark-voicebot-bundle -s manifest.json.sig "
    "< manifest.json": "a controller that has nothing of ours yet",
    "sha256sum controller/*": "as above",
    "mkdir ~/wheels && tar -C ~ -xf controller/project.tar "
    "&& tar -C ~/wheels -xf controller/wheelhouse-*.tar": "as above",
    "cd ~/spark-voicebot && PIP_NO_INDEX=1 PIP_FIND_LINKS=$HOME/wheels make setup "
    "&& . .venv/bin/activate": "as above",
    'curl --cacert ca.crt -H "Authorization: Bearer $key" '
    "https://spark-xxxx.local:8444/v1/models": "a Spark with a certificate",
    'xdg-open "https://spark-xxxx.local:8444/#key=$key"': "a desktop",
    'curl --cacert ca.crt -H "Authorization: Bearer $key" -F file=@question.wav '
    "https://gate/v1/audio/transcriptions": "a gateway; tests/integration/gateway sends the same",
    "docker stop NAME": "an engine that was started by hand",
    "jq .failures[-1].reason /var/lib/spark-voicebot/ledger.json": "jq is no part of what is installed",
    "systemctl reset-failed vllm; systemctl restart vllm": "a GPU that has recovered",
}
