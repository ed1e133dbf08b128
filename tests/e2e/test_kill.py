#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL under load, restart, and a look at every byte: E1, E3 for the death of the process.
KILL_ROUNDS (10) says how often; SEED (1) picks the load."""
import os
import random
import time

from lib import Daemon, Load, MiB, expect, run_tests, verify, wait_for_progress

REGION = 12 * MiB
CONNECTIONS = 4
ROUNDS = int(os.environ.get("KILL_ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "1"))


def kill_under_load(folder):
    """No acknowledged write is lost, and none of up to 1 MiB is torn, whenever the daemon dies."""
    choose = random.Random(SEED)
    expected = [bytearray(REGION) for _ in range(CONNECTIONS)]
    acknowledged = unanswered = 0
    slowest = 0.0
    with Daemon(os.path.join(folder, "data"), "--volume-size", "1GiB") as daemon:
        daemon.start()
        for number in range(ROUNDS):
            loads = [Load(daemon, i * REGION, expected[i], choose.random())
                     for i in range(CONNECTIONS)]
            for load in loads:
                load.start()
            wait_for_progress(loads, choose.randrange(40))
            time.sleep(choose.uniform(0, 0.3))
            daemon.kill()
            for load in loads:
                load.join()
                expect(not load.errors, f"round {number}: errors: {load.errors}")
                acknowledged += load.acknowledged
                unanswered += len(load.in_flight)
            # Now and then the next start is killed as well, wherever it is just then.
            while choose.random() < 0.3:
                daemon.spawn()
                time.sleep(choose.uniform(0, 0.1))
                daemon.kill()
            slowest = max(slowest, daemon.start())
            try:
                verify(daemon, loads)
            except AssertionError as error:
                raise AssertionError(f"round {number} of SEED={SEED}: {error}") from error
        print(f"# {ROUNDS} rounds: {acknowledged} acknowledged, {unanswered} in flight when "
              f"killed; slowest start {slowest:.2f} s")
        daemon.kill()
        status, text = daemon.check()
        expect(status == 0, f"--check after a kill: {status}: {text}")


run_tests(kill_under_load)
