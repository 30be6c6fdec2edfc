import io

import pytest
import torch
from rich.console import Console

from data.split_report import SplitReport, main
from protocol.settings import DataSettings, PublicSettings, RunSettings
from tests.data.numbered import numbered_parquet, run_settings

CLIENTS = 10


@pytest.fixture
def digits():
    run = RunSettings(data=DataSettings(withheld_size=40), public=PublicSettings(size=600, subset_size=1))
    return SplitReport.of(run, CLIENTS)


def toml(folder, **data):
    lines = [f"{key.replace('_', '-')} = {value}" for key, value in data.items()]
    path = folder / "run.toml"
    path.write_text("\n".join(["[data]", *lines, "[public]", "size = 20", "subset-size = 1"]))
    return str(path)


def cells(table):
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


# --- counts --------------------------------------------------------------------------------------


def test_counts_and_other_parts_sum_to_all_samples(digits):
    assert digits.train.shape == digits.test.shape == (CLIENTS, 10)
    assert digits.others == {"public pool": 600, "server's test": 300, "withheld": 40}
    assert int(digits.train.sum() + digits.test.sum()) + 940 == 1797


def test_what_is_withheld_counts_by_samples_though_groups_are_kept_together(tmp_path):
    path = numbered_parquet(tmp_path, 120, patient=[row // 3 for row in range(120)])
    report = SplitReport.of(run_settings(path, group="patient", withheld_size=9), 2)
    assert report.others == {"public pool": 21, "server's test": 9, "withheld": 9}
    assert int(report.train.sum() + report.test.sum()) == 120 - 39


def test_a_run_that_tests_nothing_at_the_server_has_a_test_of_0(tmp_path):
    digits = SplitReport.of(RunSettings(), 2)
    assert "withheld" not in digits.others


# --- the table -----------------------------------------------------------------------------------


def test_a_row_of_the_table_has_a_clients_samples_by_class(digits):
    table = digits.table()
    assert [str(column.header) for column in table.columns[4:]] == list("0123456789")
    for client, row in enumerate(cells(table)):
        counts = [0 if cell == "·" else int(cell) for cell in row[4:]]
        assert counts == (digits.train + digits.test)[client].tolist()
        assert row[0] == str(client)
        assert (int(row[1]), int(row[2])) == (digits.train[client].sum(), digits.test[client].sum())
        assert int(row[3]) == sum(count > 0 for count in counts)


def many(classes=40):
    names = tuple(f"class {number}" for number in range(classes))
    return SplitReport(names, torch.ones(3, classes), torch.zeros(3, classes), {})


def test_of_many_classes_the_table_shows_only_how_many_a_client_has():
    assert [row[3] for row in cells(many().table())] == ["40", "40", "40"]
    assert len(many().table().columns) == 4


def test_a_class_may_have_a_name_that_rich_would_take_for_a_colour():
    report = SplitReport(("[red]", "[0, 1)"), torch.ones(1, 2), torch.ones(1, 2), {})
    console = Console(file=io.StringIO(), width=100)
    console.print(report.table())
    assert "[red] ┃ [0, 1)" in console.file.getvalue()


# --- the picture ---------------------------------------------------------------------------------


def test_the_picture_has_a_dot_for_each_class_that_a_client_holds(digits):
    (axes,) = digits.picture().axes
    both = digits.train + digits.test
    dots = {(int(x), int(y)) for x, y in axes.collections[0].get_offsets()}
    assert dots == {(number, client) for client, number in torch.nonzero(both).tolist()}
    areas = axes.collections[0].get_sizes()
    assert sorted(areas / areas.max()) == pytest.approx(sorted((both[both > 0] / both.max()).tolist()))
    assert [label.get_text() for label in axes.get_xticklabels()] == list("0123456789")


def test_of_very_many_classes_the_picture_leaves_out_the_names():
    (axes,) = many().picture().axes
    assert len(axes.collections[0].get_offsets()) == 120
    assert not {label.get_text() for label in axes.get_xticklabels()} & set(many().classes)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_the_picture(tmp_path, capsys):
    path = numbered_parquet(tmp_path, 60)
    config = toml(tmp_path, source=f'"{path}"', server_test_size=10, split='"iid"')
    picture = tmp_path / "split.png"
    assert main([config, "--clients", "3", "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "public pool: 20, server's test: 10" in out
    assert f"Wrote {picture}" in out.replace("\n", "")
    assert sum(line.startswith(("│ 0", "│ 1", "│ 2")) for line in out.splitlines()) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": '"/nothing.parquet"'}, 'data.source = "/nothing.parquet": this path does not exist'),
        ({"sauce": '"digits"'}, "sauce"),
        ({"source": "="}, "error: "),
        ({"source": '"nodes"'}, 'data.classes = "": with data.source = "nodes"'),
    ],
)
def test_what_is_wrong_goes_to_stderr_and_fails(data, message, tmp_path, capsys):
    assert main([toml(tmp_path, **data)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_settings_file_that_is_not_there_fails(tmp_path, capsys):
    assert main([str(tmp_path / "nothing.toml")]) == 1
    assert "nothing.toml" in capsys.readouterr().err


def test_a_picture_of_an_unknown_kind_fails(tmp_path, capsys):
    config = toml(tmp_path, server_test_size=10)
    assert main([config, "--clients", "2", "--picture", str(tmp_path / "split.xyz")]) == 1
    assert "xyz" in capsys.readouterr().err


@pytest.mark.parametrize("clients", ["0", "-1", "many"])
def test_no_clients_are_refused(clients, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([toml(tmp_path), "--clients", clients])
    assert "--clients" in capsys.readouterr().err


def test_more_clients_than_samples_fail(tmp_path, capsys):
    path = numbered_parquet(tmp_path, 60)
    config = toml(tmp_path, source=f'"{path}"', server_test_size=10)
    assert main([config, "--clients", "30"]) == 1
    assert "num-partitions = 30: must be 1 to 7" in capsys.readouterr().err
