"""The page in a browser without a network: it shows the numbers of the log, and does what its controls say."""

import json
import shutil

import numpy as np
import pytest
from plain_logs import write_log

from mpisim.analysis.measures import accuracy_auc
from mpisim.analysis.page import write_page
from mpisim.analysis.page_data import SPARED, page_data
from mpisim.storage.variables import logged_variables

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
STEP = 1 / 65534  # of what the page holds
DARKEST, BRIGHTEST = (0, 32, 76), (255, 234, 70)  # the ends of cividis, in red, green and blue, as plotly has it
TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
NONE = np.full(3, np.nan)
HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'><a href='https://example.org'>here</a>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def shown(browser, tmp_path):
    """Return a function that writes a page of logs and opens it; no error or request may come of that."""
    contexts, troubles = [], []

    def show(*paths, **options):
        write_page(paths, tmp_path / "page.html")
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if "page.html" not in request.url else None)
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield show
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def content(log_content):
    """Return content of logs whose nodes are a path, 0 – 1 – 2, with the OOD node in the middle."""
    log_content.static |= {"link_target": [0, 1, 1, 2, 0], "link_source": [1, 0, 2, 1, 0], "link_weight": [0.5] * 5}
    log_content.static |= {
        "degree": [1, 2, 1],
        "is_ood": [0, 1, 0],
        "train_samples": [7, 8, 9],
        "rank_of_node": [0, 0, 1],
    }
    return log_content


@pytest.fixture
def rounds(content):
    return [content.round() for _ in range(4)]


@pytest.fixture
def log(tmp_path, content, rounds):
    return content.write(tmp_path / "run.h5", rounds, "complete", TRAINED)


def scroll_to(page, chart):
    """Scroll to a chart, which is drawn when it comes near the view."""
    page.locator(f"#{chart}").scroll_into_view_if_needed()
    page.wait_for_function(
        "chart => { const { data, dataset } = window[chart]; return data && !dataset.stale }", arg=chart
    )


def traces(page, chart, kind):
    """Return the traces of a kind that a chart draws."""
    scroll_to(page, chart)
    return json.loads(
        page.evaluate(
            "([chart, kind]) => JSON.stringify(document.getElementById(chart).data.filter((t) => t.meta.kind === kind),"
            " (key, value) => ArrayBuffer.isView(value) ? [...value] : value)",
            [chart, kind],
        )
    )


def colors(page):
    """Return what colors the nodes, in their order, of each panel."""
    found = []
    for trace in traces(page, "graphs", "nodes"):
        of_node = dict(zip(trace["customdata"], trace["marker"]["color"], strict=True))
        found.append([of_node[node] for node in sorted(of_node)])
    return found


def move_to(page, round):
    page.locator("#round").evaluate(
        "(slider, round) => { slider.value = round; slider.dispatchEvent(new Event('input')) }", round
    )
    page.wait_for_function("round => document.getElementById('curves').layout.shapes[0].x0 === round", arg=round)


NODES = {"graphs": "#graphs .trace.scatter:last-child .point", "prediction": "#prediction .trace:first-child .point"}


def point_of(page, chart, place):
    """Return where on the screen a node's point is, by its place among those of its trace."""
    box = page.locator(NODES[chart]).nth(place).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def figures(page):
    pairs = page.eval_on_selector_all(
        "#figures div", "all => all.map((each) => [...each.children].map((c) => c.textContent))"
    )
    return dict(pairs)


def test_the_page_opens_at_the_last_round_with_the_ood_node_selected(shown, log):
    page = shown(log)
    assert page.title() == page.text_content("h1") == "degree on ring:n=3, digits, seed 0"
    assert page.text_content("#count") == "4 / 4"
    assert page.input_value("#number") == "1"
    assert "4 of 4 rounds" in page.text_content("#status")
    assert "OOD node 1 (degree 2, degree rank 1)" in page.text_content("#status")


def test_the_slider_gives_the_nodes_the_colors_of_the_logged_values(shown, log, rounds):
    page = shown(log)
    for round in (4, 1, 3):
        move_to(page, round)
        wanted = [rounds[round - 1]["iid_accuracy"], rounds[round - 1]["ood_accuracy"]]
        np.testing.assert_allclose(colors(page), wanted, atol=STEP)


def test_what_the_browser_paints_is_the_color_of_the_value(tmp_path, shown, content):
    rounds = [content.round(iid_accuracy=values, ood_accuracy=NONE) for values in ([0, 1, 0.5], [1, 0, 0.5])]
    page = shown(content.write(tmp_path / "run.h5", rounds, "complete", TRAINED))
    for round, painted in ((2, {0: BRIGHTEST, 1: DARKEST}), (1, {0: DARKEST, 1: BRIGHTEST})):
        move_to(page, round)
        [trace] = traces(page, "graphs", "nodes")
        fills = page.eval_on_selector_all(
            NODES["graphs"], "all => all.map((each) => getComputedStyle(each).fill.match(/[0-9]+/g).map(Number))"
        )
        of_node = dict(zip(trace["customdata"], fills, strict=True))
        for node, color in painted.items():
            np.testing.assert_allclose(of_node[node], color, atol=1)


@pytest.mark.parametrize("quantity", ["iid_loss", "train_loss", "iid_recall:2"])
def test_nodes_are_colored_by_any_quantity_of_the_log(shown, log, rounds, quantity):
    page = shown(log)
    page.select_option("#quantity", quantity)
    move_to(page, 2)
    name, _, label = quantity.partition(":")
    wanted = np.asarray(rounds[1][name])
    np.testing.assert_allclose(colors(page), [wanted[:, int(label)] if label else wanted], rtol=1e-4)
    assert page.text_content("#spoken").startswith("Round 2: mean ")


def test_a_click_selects_a_node_and_its_curves_are_those_of_the_log(shown, log, rounds):
    page = shown(log)
    order = traces(page, "graphs", "nodes")[0]["customdata"]
    page.mouse.click(*point_of(page, "graphs", order.index(2)))
    page.wait_for_function("document.getElementById('number').value === '2'")
    page.wait_for_timeout(300)
    curves = [trace["y"] for trace in traces(page, "curves", "selected")]
    wanted = [[values[name][2] for values in rounds] for name in ("iid_accuracy", "ood_accuracy")]
    np.testing.assert_allclose(curves, wanted, atol=STEP)
    means = [trace["y"] for trace in traces(page, "curves", "mean")]
    wanted = [[np.mean(values[name]) for values in rounds] for name in ("iid_accuracy", "ood_accuracy")]
    np.testing.assert_allclose(means, wanted, atol=STEP)
    # Itself and its neighbor have a ring; the same node is ringed where the prediction is.
    assert [len(trace["x"]) for trace in traces(page, "graphs", "ring")] == [2, 2]
    [ring], [nodes] = traces(page, "prediction", "ring"), traces(page, "prediction", "nodes")
    assert (ring["x"], ring["y"]) == ([nodes["x"][2]], [nodes["y"][2]])
    shown_figures = figures(page)
    names = ("degree", "degree rank", "samples", "MPI rank")
    assert [shown_figures[name] for name in names] == ["1", "3 of 3", "9", "1"]
    assert shown_figures["OOD accuracy, round 4"] == f"{rounds[3]['ood_accuracy'][2]:.3f}"
    assert page.text_content("#neighbors").strip() == "1 neighbor: 1"


def test_hovering_over_a_node_shows_what_the_log_says_of_it(shown, log, rounds):
    page = shown(log)
    move_to(page, 3)
    order = traces(page, "graphs", "nodes")[0]["customdata"]
    for node, samples, rank in ((0, 7, 0), (1, 8, 0), (2, 9, 1)):
        page.mouse.move(*point_of(page, "graphs", order.index(node)))
        page.wait_for_function(
            "start => document.querySelector('#graphs .hovertext')?.textContent.startsWith(start)", arg=f"node {node},"
        )
        told = page.eval_on_selector_all(
            "#graphs .hovertext tspan.line", "all => all.map((each) => each.textContent.trim())"
        )
        degree, degree_rank = ((1, 2), (2, 1), (1, 3))[node]
        iid, ood = (rounds[2][f"{kind}_accuracy"][node] for kind in ("iid", "ood"))
        assert told == [
            f"node {node}, degree {degree} (degree rank {degree_rank})",
            f"{samples} samples, on MPI rank {rank}",
            f"IID accuracy {iid:.3f}, OOD {ood:.3f}",
        ]
    scroll_to(page, "prediction")
    [nodes] = traces(page, "prediction", "nodes")
    page.mouse.move(*point_of(page, "prediction", 2))
    page.wait_for_selector("#prediction .hovertext")
    predicted, measured = nodes["x"][2], accuracy_auc(np.array([values["ood_accuracy"][2] for values in rounds]))
    told = page.text_content("#prediction .hovertext")
    assert told == f"node 2, 1 hops awaypredicted {predicted:.3f}, measured {measured:.3f}"


def test_a_node_is_also_selected_by_its_number_as_a_neighbor_and_in_the_prediction(shown, log):
    page = shown(log)
    page.fill("#number", "0")
    page.press("#number", "Tab")
    page.wait_for_function("document.getElementById('neighbors').textContent.includes('1 neighbor: 1')")
    page.click("#neighbors button")
    page.wait_for_function("document.getElementById('number').value === '1'")
    scroll_to(page, "prediction")
    page.mouse.click(*point_of(page, "prediction", 2))
    page.wait_for_function("document.getElementById('number').value === '2'")
    page.fill("#number", "77")
    page.press("#number", "Tab")
    page.wait_for_function("document.getElementById('number').value === '2'")


def test_playing_goes_through_the_rounds_and_stops_at_the_last(shown, log):
    page = shown(log)
    page.select_option("#speed", "20")
    page.evaluate(
        "seen = []; new MutationObserver(() => seen.push(count.textContent)).observe(count, { childList: true })"
    )
    page.click("#play")
    page.wait_for_function("seen.includes('4 / 4')")
    page.wait_for_function("play.getAttribute('aria-label') === 'Play'")
    assert list(dict.fromkeys(page.evaluate("seen"))) == ["1 / 4", "2 / 4", "3 / 4", "4 / 4"]


def test_arrows_move_the_round_and_space_plays_and_pauses(shown, log, rounds):
    page = shown(log)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.text_content("#count") == "1 / 4"
    page.keyboard.press("ArrowRight")
    assert page.text_content("#count") == "2 / 4"
    np.testing.assert_allclose(colors(page)[0], rounds[1]["iid_accuracy"], atol=STEP)
    page.select_option("#speed", "1")
    page.locator("#speed").blur()
    page.keyboard.press("Space")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    page.keyboard.press("Space")
    assert page.get_attribute("#play", "aria-label") == "Play"


@pytest.mark.parametrize(("preferred", "other"), [("light", "dark"), ("dark", "light")])
def test_the_scheme_is_the_preferred_one_until_the_button_turns_it(shown, log, preferred, other):
    ground = {"light": "rgb(243, 244, 246)", "dark": "rgb(14, 17, 22)"}
    letters = {"light": "#1b1f24", "dark": "#e8eaed"}
    page = shown(log, color_scheme=preferred)
    for scheme in (preferred, other):
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground[scheme]
        scroll_to(page, "seconds")
        page.wait_for_function("color => seconds.layout.font.color === color", arg=letters[scheme])
        page.click("#scheme")


def test_a_phone_scrolls_down_only_and_its_controls_are_large_enough_for_a_thumb(tmp_path, shown, content, rounds):
    content.attributes = content.attributes | {"title": "long" * 60}
    paths = [content.write(tmp_path / f"{name}.h5", rounds, variables=TRAINED) for name in ("a", "b" * 80, "c", "d")]
    page = shown(*paths, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    heights = page.eval_on_selector_all(
        "button, select, input[type=number]", "all => all.map((each) => each.getBoundingClientRect().height)"
    )
    assert min(heights) >= 44
    page.locator("#graphs").scroll_into_view_if_needed()
    before, touch = page.evaluate("scrollY"), page.context.new_cdp_session(page)
    for kind, y in (("Start", 400), *(("Move", y) for y in range(380, 200, -20))):
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": [{"x": 180, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("before => scrollY > before", arg=before)
    domains = page.evaluate("[graphs.layout.xaxis, graphs.layout.xaxis2].map((axis) => axis.domain)")
    assert domains == [[0, 1], [0, 1]]  # panels below each other


def test_up_to_four_runs_stand_side_by_side_and_share_the_slider(tmp_path, shown, content):
    logs, paths = [], []
    for number, strategy in enumerate(("degree", "unweighted", "random", "fl", "none")):
        content.attributes = content.attributes | {"config": json.dumps({"rounds": 4, "strategy": strategy})}
        logs.append([content.round() for _ in range(2 if number == 1 else 4)])
        paths.append(content.write(tmp_path / f"{strategy}.h5", logs[-1], variables=TRAINED))
    page = shown(*paths)
    assert page.eval_on_selector_all("#run option", "all => all.map((each) => each.textContent)")[4] == "none"
    np.testing.assert_allclose(colors(page), [log[-1]["ood_accuracy"] for log in logs[:4]], atol=STEP)
    move_to(page, 1)
    np.testing.assert_allclose(colors(page), [log[0]["ood_accuracy"] for log in logs[:4]], atol=STEP)
    assert page.is_disabled("#shown input >> nth=4")
    page.uncheck("#shown input >> nth=1")
    page.wait_for_function("graphs.data.filter((trace) => trace.meta.kind === 'nodes').length === 3")
    page.select_option("#run", "4")
    page.wait_for_function("graphs.data.filter((trace) => trace.meta.kind === 'nodes').length === 4")
    wanted = [logs[number][0]["ood_accuracy"] for number in (0, 2, 3, 4)]
    np.testing.assert_allclose(colors(page), wanted, atol=STEP)
    page.wait_for_function("curves.data.some((trace) => trace.name === 'D node 1')")
    selected = traces(page, "curves", "selected")[0]["y"]
    np.testing.assert_allclose(selected, [values["iid_accuracy"][1] for values in logs[4]], atol=STEP)
    cells = page.eval_on_selector_all("#options tr.differs td", "all => all.map((each) => each.textContent)")
    assert cells == ["degree", "random", "fl", "none"]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_panel_is_headed_by_what_tells_its_run_from_those_beside_it(tmp_path, shown, width):
    long = "sb:sizes=4-4-4-4-4-4-4-4,p_in=0.7,p_out=0.1,seed="
    paths = [
        write_log(tmp_path / f"{place}.h5", f"{long}{seed}", strategy="betweenness-similarity", seed=seed, **more)
        for seed in range(2)
        for place, more in ((f"{seed}-a", {}), (f"{seed}-b", {"lr": 0.5}))
        for more in ({"iid": ((0.5,) * 32,), "ood": ((0.5,) * 32,)} | more,)
    ]
    page = shown(*paths, viewport={"width": width, "height": 900})
    headings = page.evaluate("graphs.layout.annotations.map((each) => each.text.replaceAll(/<.*?>| /g, ''))")
    labels = [f"{long}{seed}{lr}" for seed in range(2) for lr in (", lr 0.1", ", lr 0.5")]
    assert headings == [
        f"{letter}{label}OODaccuracy,mean0.500".replace(" ", "") for letter, label in zip("ABCD", labels, strict=True)
    ]
    widths = page.eval_on_selector_all(
        "#graphs .annotation-text tspan", "all => all.map((each) => each.getBoundingClientRect().width)"
    )
    assert max(widths) < page.evaluate("graphs.layout.meta.widths[0]")


def test_a_chart_is_drawn_when_it_comes_near_the_view_and_anew_when_it_is_seen_again(shown, log):
    page = shown(log, viewport={"width": 390, "height": 500})
    drawn = "['graphs', 'curves', 'prediction', 'seconds'].filter((chart) => Boolean(window[chart].data))"
    assert page.evaluate(drawn) == ["graphs"]
    scroll_to(page, "seconds")
    assert "seconds" in page.evaluate(drawn)
    # What changes meanwhile is there when one comes back.
    page.evaluate("scheme.click()")
    scroll_to(page, "graphs")
    page.wait_for_function("graphs.layout.font.color === '#e8eaed'")


def test_a_round_that_is_chosen_while_a_chart_is_out_of_view_is_in_it_when_it_is_seen(shown, log, rounds):
    page = shown(log, viewport={"width": 390, "height": 500})
    scroll_to(page, "seconds")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.text_content("#count") == "1 / 4"
    np.testing.assert_allclose(colors(page)[0], rounds[0]["iid_accuracy"], atol=STEP)
    scroll_to(page, "curves")
    page.wait_for_function("curves.layout.shapes[0].x0 === 1")


def test_on_paper_every_chart_is_drawn(shown, log):
    page = shown(log, viewport={"width": 390, "height": 500})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for chart in ("graphs", "curves", "prediction", "seconds"):
        page.wait_for_function("chart => Boolean(window[chart].data)", arg=chart)
    assert page.evaluate("scrollY") == 0


def test_many_nodes_are_drawn_by_webgl_can_be_clicked_and_show_only_their_own_of_many_links(tmp_path, shown, content):
    targets, sources = np.divmod(np.arange(350**2), 350)
    content.sizes = {"node": 350, "rank": 2, "link": 350**2, "label": 4, "epoch": 2}
    content.__init__()
    content.static |= {"link_target": targets, "link_source": sources, "link_weight": np.full(350**2, 1 / 350)}
    content.static |= {"degree": np.full(350, 349), "is_ood": np.arange(350) == 5}
    rounds = [content.round() for _ in range(2)]
    page = shown(content.write(tmp_path / "run.h5", rounds, "complete", TRAINED))
    np.testing.assert_allclose(colors(page), [rounds[1]["ood_accuracy"]], atol=STEP)
    [nodes] = traces(page, "graphs", "nodes")
    has_webgl = page.evaluate("Boolean(document.createElement('canvas').getContext('webgl'))")
    assert nodes["type"] == ("scattergl" if has_webgl else "scatter")
    assert [len(trace["x"]) / 3 for trace in traces(page, "graphs", "links")] == [0, 349]
    place = nodes["customdata"].index(77)
    x, y = page.evaluate(
        "([x, y]) => [['xaxis', x], ['yaxis', y]].map(([axis, at]) =>"
        " graphs._fullLayout[axis]._offset + graphs._fullLayout[axis].l2p(at))",
        [nodes["x"][place], nodes["y"][place]],
    )
    corner = page.locator("#graphs").bounding_box()
    page.mouse.click(corner["x"] + x, corner["y"] + y)
    page.wait_for_function("document.getElementById('number').value === '77'")


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_without_a_round_yet_is_told_and_shown_without_colors(tmp_path, shown, content, status):
    page = shown(content.write(tmp_path / "run.h5", [], status))
    assert page.text_content("#status strong") == status
    assert "No round is in the log yet." in page.text_content("#facts")
    assert page.text_content("#count") == "no round"
    assert page.is_disabled("#play")
    assert set(colors(page)[0]) == {"#ffffff"}


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path, shown, content, rounds):
    page = shown(content.write(tmp_path / "run.h5", rounds[:1], "running", TRAINED))
    assert "1 of 4 rounds" in page.text_content("#status")
    np.testing.assert_allclose(colors(page)[0], rounds[0]["iid_accuracy"], atol=STEP)


def test_a_run_without_ood_has_neither_its_colors_nor_its_curves(tmp_path, shown, content):
    rounds = [content.round(ood_accuracy=NONE, ood_loss=NONE) for _ in range(2)]
    page = shown(content.write(tmp_path / "run.h5", rounds, "complete", TRAINED))
    assert "The log has no OOD accuracy." in page.text_content("#facts")
    assert len(colors(page)) == len(traces(page, "curves", "mean")) == 1
    assert "ood_accuracy" not in page.eval_on_selector_all("#quantity option", "all => all.map((each) => each.value)")
    assert not page.is_visible("#why")


def test_what_had_no_room_is_named_and_not_offered(shown, log, monkeypatch):
    [run] = page_data([log], 10**9)
    kept = {name: run["scores"][name] for name in ("iid_accuracy", "ood_accuracy")}
    run |= {"scores": kept, "left_out": list(SPARED)}
    monkeypatch.setattr("mpisim.analysis.page.BUDGET", len(json.dumps([run])))
    page = shown(log)
    left_out = "accuracy on own samples, IID loss, OOD loss, training loss, recall of labels"
    assert f"Left out, so that the page stays small: {left_out}." in page.text_content("#facts")
    offered = page.eval_on_selector_all("#quantity option", "all => all.map((each) => each.value)")
    assert offered == ["both", "iid_accuracy", "ood_accuracy"]


def test_where_only_some_rounds_had_room_each_shows_the_last_one_before_it(tmp_path, shown, monkeypatch):
    scores = np.random.default_rng(0).random((30, 50))
    path = write_log(tmp_path / "run.h5", "ring:n=50", iid=scores, ood=scores)
    monkeypatch.setattr("mpisim.analysis.page.BUDGET", 7_000)
    [run] = page_data([path], 7_000)
    rounds = run["rounds"]
    assert 2 < len(rounds) < 15  # so that there are rounds between them
    page = shown(path)
    assert f"Scores are those of {len(rounds)} of the rounds" in page.text_content("#facts")
    [mean, _] = traces(page, "curves", "mean")
    assert mean["x"] == rounds
    assert mean["y"] == pytest.approx(scores[np.array(rounds) - 1].mean(axis=1), abs=STEP)
    between = rounds[1] + 1
    move_to(page, between)
    assert colors(page)[0] == pytest.approx(scores[rounds[1] - 1], abs=STEP)
    assert figures(page)[f"IID accuracy, round {rounds[1]}"] == f"{scores[rounds[1] - 1][0]:.3f}"


def test_a_node_without_a_number_is_blank_and_the_means_are_of_the_others(tmp_path, shown, content):
    rounds = [content.round(iid_accuracy=[0.25, np.nan, 0.75]) for _ in range(2)]
    page = shown(content.write(tmp_path / "run.h5", rounds, "complete", TRAINED), color_scheme="dark")
    assert colors(page)[0] == [pytest.approx(0.25, abs=STEP), "#171b21", pytest.approx(0.75, abs=STEP)]
    assert traces(page, "curves", "mean")[0]["y"] == pytest.approx([0.5, 0.5], abs=STEP)
    assert figures(page)["IID accuracy, round 2"] == "–"


def test_a_log_cannot_make_the_page_run_a_script_or_show_markup(tmp_path, shown, content, rounds):
    paths = []
    for number in range(2):
        content.attributes = {
            "title": HOSTILE,
            "config": json.dumps({"rounds": 4, "strategy": f"{HOSTILE}{number}", HOSTILE: number}),
            "data_kind": "image",
            "command": HOSTILE,
        }
        paths.append(content.write(tmp_path / f"<b>{number}.h5", rounds, variables=TRAINED))
    page = shown(*paths, viewport={"width": 4000, "height": 800})
    assert page.text_content("h1") == HOSTILE
    assert HOSTILE in page.title()
    assert HOSTILE in page.text_content("#provenance")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("main img, main a[href*=example], header img, main b:text('0.h5')").count() == 0
    assert "</script><script>" in page.locator("#graphs .annotation-text").first.text_content()


def test_no_button_of_the_library_leads_elsewhere(shown, log):
    page = shown(log)
    wanted = ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]
    for chart in ("graphs", "curves", "prediction", "seconds"):
        scroll_to(page, chart)
        titles = f"[...{chart}.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
        assert page.evaluate(titles) == wanted
        assert page.locator(f"#{chart} a[href]").count() == 0


def test_a_script_that_is_not_the_pages_own_does_not_run(browser, tmp_path, log):
    write_page([log], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("</body>", "<script>hacked = 1</script></body>"), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()
