"""What our SuperNode changes of Flower's, and that Flower's is still the one it was written for."""

import inspect
import re
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.client.grpc_rere_client import connection
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, SubStatus
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as node_loop

from deploy import supernode
from deploy.supernode import PromptNodeStateFactory, QuickClock, fetch_message, node_config, split_arguments

RUN, NODE = 7, 3


def test_flower_is_the_version_whose_supernode_is_known():
    assert version("flwr").startswith(supernode.KNOWN_FLOWER)


def test_flowers_loop_sleeps_as_it_did_when_this_was_written():
    source = inspect.getsource(node_loop)
    assert source.count("time.sleep(3)") == 1
    assert source.count("time.sleep(0.5)") == 2
    used = re.findall(r"(?<![\w.])time\.\w+", source)
    assert used == ["time.sleep"] * 3, "the stand-in for `time` has nothing but sleep"


def test_flowers_names_are_where_they_are_replaced():
    assert "NodeStateFactory(" in inspect.getsource(supernode.command_line)
    assert "= _pull_and_store_message(" in inspect.getsource(node_loop.start_client_internal)
    assert "HEARTBEAT_DEFAULT_INTERVAL" in inspect.getsource(connection)
    assert "HEARTBEAT_DEFAULT_INTERVAL" in inspect.getsource(heartbeat)
    assert supernode.HEARTBEAT_INTERVAL == HEARTBEAT_MIN_INTERVAL


def test_another_flower_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr(supernode, "version", lambda name: "1.40.0")
    monkeypatch.setattr(supernode.log, "propagate", True)
    before = node_loop.time
    supernode.patch_flower(10)
    assert node_loop.time is before
    assert "Flower 1.40.0 is not a known version" in caplog.text


@pytest.mark.parametrize(("asked", "idle", "slept"), [(3, 0, 0.1), (3, 8, 0.8), (3, 600, 3), (0.5, 600, 0.1)])
def test_an_idle_node_waits_a_tenth_of_the_time_it_has_been_idle(monkeypatch, asked, idle, slept):
    now, sleeps = [100.0], []
    monkeypatch.setattr("deploy.idle.time.monotonic", lambda: now[0])
    monkeypatch.setattr("deploy.supernode.time.sleep", sleeps.append)
    clock = QuickClock()
    now[0] += idle
    clock.sleep(asked)
    assert sleeps == [pytest.approx(slept)]


def test_a_message_makes_the_node_attentive_again(monkeypatch):
    now, sleeps = [100.0], []
    monkeypatch.setattr("deploy.idle.time.monotonic", lambda: now[0])
    monkeypatch.setattr("deploy.supernode.time.sleep", sleeps.append)
    clock = QuickClock()
    now[0] += 600
    clock.sleep(0.5)  # waiting for the ClientApp that has the message
    clock.sleep(3)
    assert sleeps == [0.1, 0.1]


class TestPromptNodeState:
    @pytest.fixture
    def state(self, monkeypatch):
        for name, value in {"_task_id": 1, "_run_id": RUN, "_node_id": 1}.items():
            monkeypatch.setattr(TaskIdentity, name, value)
        state = PromptNodeStateFactory(ObjectStoreFactory()).state()
        state.set_node_id(NODE)
        message = Message(RecordDict(), dst_node_id=NODE, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        state.store_message(message)
        return state

    def start_task(self, state):
        task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="hash")
        state.claim_task(task)
        state.activate_task(task_id=task)
        return task

    def errors(self, state):
        return [reply.error.reason for reply in state.get_messages(is_reply=True)]

    @pytest.mark.parametrize("fetched", [True, False], ids=["it had its message", "it never fetched it"])
    @pytest.mark.parametrize("ended", [SubStatus.FAILED, SubStatus.STOPPED])
    def test_a_failed_clientapp_is_answered_for_at_once(self, state, fetched, ended):
        task = self.start_task(state)
        if fetched:
            (message,) = state.get_messages(is_reply=False)
            state.record_message_processing_start(message.metadata.message_id)
        assert state.finish_task(task, ended, "died")
        assert self.errors(state) == ["ClientApp stopped responding."]

    def test_one_that_has_answered_is_not_answered_for_again(self, state):
        task = self.start_task(state)
        (message,) = state.get_messages(is_reply=False)
        state.record_message_processing_start(message.metadata.message_id)
        reply = Message(Error(1, "its own"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        state.store_message(reply)
        assert state.finish_task(task, SubStatus.FAILED, "raised")
        assert self.errors(state) == ["its own"]

    def test_one_that_completed_is_not_answered_for(self, state):
        task = self.start_task(state)
        state.get_messages(is_reply=False)
        assert state.finish_task(task, SubStatus.COMPLETED, "")
        assert self.errors(state) == []

    def begin_reply(self, state):
        """Have the ClientApp fetch its message and announce a reply; return what is left to push."""
        (message,) = state.get_messages(is_reply=False)
        state.record_message_processing_start(message.metadata.message_id)
        reply = Message(RecordDict({"fields": ConfigRecord({"loss": 0.5})}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        session = state.start_session(RUN)
        stored, missing = state.store_message_and_object_tree(reply, get_object_tree(reply), session)
        assert stored
        assert set(missing) == parts.keys()
        return [(RUN, session, name, content) for name, content in parts.items()]

    def test_a_reply_is_taken_when_all_of_it_is_there(self, state):
        task = self.start_task(state)
        parts = self.begin_reply(state)
        for part in parts:
            assert not state.get_messages(is_reply=True)
            assert state.store_object(*part)
        (reply,) = state.get_messages(is_reply=True)
        assert not reply.has_error()
        assert state.finish_task(task, SubStatus.COMPLETED, "")
        assert not state.get_messages(is_reply=True)

    def test_a_reply_whose_parts_are_all_known_is_taken_at_once(self, state):
        self.start_task(state)
        for part in self.begin_reply(state):
            state.store_object(*part)
        (reply,) = state.get_messages(is_reply=True)
        state.delete_messages(message_ids=[reply.metadata.message_id])
        session = state.start_session(RUN)
        assert state.store_message_and_object_tree(reply, get_object_tree(reply), session) == (True, [])
        assert state.get_messages(is_reply=True) == [reply]

    @pytest.mark.parametrize(
        ("ended", "said"),
        [
            (SubStatus.FAILED, "ClientApp stopped responding."),
            (SubStatus.COMPLETED, "ClientApp ended amid its reply."),
        ],
    )
    def test_one_that_ended_amid_its_reply_is_answered_for(self, state, ended, said):
        task = self.start_task(state)
        first, *_ = self.begin_reply(state)
        assert state.store_object(*first)
        assert state.finish_task(task, ended, "")
        assert self.errors(state) == [said]
        assert not state.store_object(*first), "what was begun is dropped"

    def test_one_that_is_silent_amid_its_reply_is_answered_for(self, state):
        self.begin_reply(state)
        state._on_task_tokens_expired([SimpleNamespace(type=TaskType.CLIENT_APP, run_id=RUN)])
        assert self.errors(state) == ["ClientApp stopped responding."]

    def test_one_that_somebody_answers_for_amid_its_reply_is_answered_for_once(self, state):
        task = self.start_task(state)
        self.begin_reply(state)
        (message,) = [
            entry.message
            for entry in state.msg_store.values()
            if not entry.message.metadata.reply_to_message_id
        ]
        error = Message(Error(1, "killed"), reply_to=message)
        error.metadata.__dict__["_message_id"] = error.object_id
        state.store_message(error)
        assert self.errors(state) == ["killed"]
        assert state.finish_task(task, SubStatus.FAILED, "killed")
        assert self.errors(state) == []


class TestFetchMessage:
    """A message whose run ends while its parts are fetched, or before it is confirmed."""

    @pytest.fixture
    def message(self, monkeypatch):
        for name, value in {"_task_id": 1, "_run_id": RUN, "_node_id": 1}.items():
            monkeypatch.setattr(TaskIdentity, name, value)
        made = Message(
            RecordDict({"fields": ConfigRecord({"round": 1})}), dst_node_id=NODE, message_type="train"
        )
        made.metadata.__dict__["_message_id"] = made.object_id
        return made

    @pytest.fixture
    def store(self):
        return ObjectStoreFactory().store()

    @pytest.fixture
    def state(self, monkeypatch):
        state = PromptNodeStateFactory(ObjectStoreFactory()).state()
        state.set_node_id(NODE)
        run = SimpleNamespace(primary_task_type=TaskType.SERVER_APP, fab_hash="hash")
        monkeypatch.setattr(state, "get_run", lambda run_id: run)
        return state

    def fetch(self, state, store, message, *, ended=()):
        """Fetch a message with Flower's loop; what is named in ``ended`` finds the run ended."""
        parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}

        def pull_object(run_id, name):
            if "parts" in ended:
                raise RunNotRunningException
            return parts[name]

        def confirm(run_id, message_id):
            if "confirmation" in ended:
                raise RunNotRunningException

        return fetch_message(
            state=state,
            object_store=store,
            node_config={},
            receive=lambda: (message, get_object_tree(message)),
            get_run=None,
            get_fab=None,
            pull_object=pull_object,
            confirm_message_received=confirm,
            trusted_entities=None,
        )

    def test_one_of_a_run_that_goes_on_is_there_for_a_clientapp(self, state, store, message):
        assert self.fetch(state, store, message) == RUN
        assert state.get_messages(is_reply=False) == [message]
        assert not state.get_tasks()[0].finished_at

    @pytest.mark.parametrize("ended", ["parts", "confirmation"])
    def test_nothing_is_left_of_one_whose_run_has_ended(self, state, store, message, ended):
        assert self.fetch(state, store, message, ended=[ended]) is None
        assert not state.get_messages(is_reply=False)
        assert not state.get_messages(is_reply=True), "nobody waits for an answer"
        assert all(store.get(name) is None for name in get_all_nested_objects(message))
        assert state.get_tasks()[0].finished_at, "its ClientApp has nothing to wait for"


class TestArguments:
    def test_flowers_flags_pass_through(self):
        flags = ["--insecure", "--superlink", "host:9092", "--node-config", "client-name='a'"]
        assert split_arguments(flags) == (flags, 10)

    def test_a_node_config_may_stand_in_a_file(self, tmp_path):
        file = tmp_path / "node-config"
        file.write_text("# a GPU box\nclient-name='a'\n\n  level=2\n")
        rest, interval = split_arguments(["--node-config-file", str(file), "--heartbeat-interval", "20"])
        assert rest == ["--node-config", "client-name='a' level=2"]
        assert interval == 20

    def test_lines_become_one(self):
        assert node_config("a=1\r\n#no\n b=2 ") == "a=1 b=2"

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--node-config-file", "/nowhere"], "--node-config-file /nowhere: .*No such file"),
            (["--node-config-file", "/nowhere", "--node-config=a=1"], "give one of them"),
            (["--node-config-file", "/nowhere", "--node-config", "a=1"], "give one of them"),
            (["--heartbeat-interval", "9"], "--heartbeat-interval 9: must be at least 10"),
        ],
    )
    def test_what_is_not_allowed_is_named(self, flags, says):
        with pytest.raises(SystemExit, match=says):
            split_arguments(flags)

    def test_help_shows_our_flags_beside_flowers(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["supernode", "--help"])
        with pytest.raises(SystemExit):
            supernode.main()
        shown = capsys.readouterr().out
        assert "--node-config-file" in shown
        assert "--auth-supernode-private-key" in shown
