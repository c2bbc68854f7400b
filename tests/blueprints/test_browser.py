"""The pages in a real browser: by mouse, by keyboard, and checked for accessibility."""

import shutil
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.server_processes import server_of_a_copy
from tests.support.tables import HOME

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.thorough

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

AXE = CHECKOUT / ".node/node_modules/axe-core/axe.min.js"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Site:
    """The pages of a server in the browser."""

    def __init__(self, browser, port):
        self.browser = browser
        self.root = f"http://127.0.0.1:{port}"

    def open(self, path):
        self.browser.get(self.root + path)

    @property
    def path(self):
        return self.browser.current_url.removeprefix(self.root)

    def field(self, label):
        element = self.browser.find_element(By.XPATH, f"//label[normalize-space()='{label}']")
        return self.browser.find_element(By.ID, element.get_attribute("for"))

    def type(self, label, text):
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def press(self, button):
        previous_page = self.browser.find_element(By.TAG_NAME, "html")
        self.browser.find_element(By.XPATH, f"//button[normalize-space()='{button}']").click()
        self.wait(lambda: previous_page != self.browser.find_element(By.TAG_NAME, "html"))

    def text(self, selector="main"):
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def set_color_scheme(self, scheme):
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})

    def wait(self, condition, seconds=60):
        ignored = (webdriver.remote.webelement.WebDriverException,)
        WebDriverWait(self.browser, seconds, 0.1, ignored_exceptions=ignored).until(lambda _: condition())


@pytest.fixture(scope="module")
def shared_port(trained, tmp_path_factory):
    with server_of_a_copy(trained, tmp_path_factory.mktemp("shared")) as server:
        yield server.port


@pytest.fixture
def site(browser, shared_port):
    """The pages of a server that the tests share, and so must not change."""
    yield from open_site(browser, shared_port)


@pytest.fixture
def own_site(browser, serve):
    """The pages of a server that the test may change."""
    yield from open_site(browser, serve().port)


def open_site(browser, port):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    yield Site(browser, port)
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert not [message for message in messages if "status of 4" not in message and "favicon" not in message]


def fill(site):
    for name, value in HOME.items():
        if name in ("home city", "member"):
            Select(site.field(name)).select_by_value(str(value).lower() if name == "member" else value)
        else:
            site.type(name, str(value))


def test_a_prediction_shows_its_probabilities(site):
    site.open("/?model=homes")
    fill(site)
    site.press("Predict")
    assert site.path == "/models/homes/predict"
    assert site.text("output") in ("yes", "no")
    meters = [float(meter.get_attribute("value")) for meter in site.all("meter")]
    assert len(meters) == 2 and abs(sum(meters) - 1) < 1e-6 and meters[0] >= meters[1]
    assert "curl http://127.0.0.1" in site.text("pre") and '"home city": "Rome"' in site.text("pre")
    assert site.field("age").get_attribute("value") == "33.5"


def test_a_bad_value_marks_its_field_and_keeps_the_other_values(site):
    site.open("/?model=homes")
    fill(site)
    site.type("rooms", "2.5")
    site.press("Predict")
    invalid = site.all("[aria-invalid]")
    assert [field.get_attribute("name") for field in invalid] == ["rooms"]
    assert "whole number" in site.text(f"#{invalid[0].get_attribute('aria-describedby')}")
    assert site.field("age").get_attribute("value") == "33.5"
    assert Select(site.field("home city")).first_selected_option.text == "Rome"


@pytest.mark.gauntlet
def test_an_uploaded_file_becomes_a_served_model(own_site, mixed_csv):
    own_site.open("/train")
    own_site.field("CSV file").send_keys(str(Path(mixed_csv).resolve()))
    own_site.type("Column to predict", "sold")
    own_site.type("Model", "lately")
    own_site.press("Train")
    assert own_site.path.startswith("/jobs/") and own_site.all("progress")
    own_site.wait(lambda: own_site.path == "/models/lately/versions/1")
    assert "lately, version 1" in own_site.text("h1") and "classification of sold" in own_site.text()
    own_site.browser.find_element(By.LINK_TEXT, "predict with it").click()
    own_site.wait(lambda: own_site.path == "/?model=lately")
    own_site.press("Predict")
    assert own_site.text("output") in ("yes", "no") and own_site.all("meter")


@pytest.mark.gauntlet
def test_the_page_activates_and_rolls_back(own_site, train_again):
    own_site.open("/models")
    own_site.browser.find_element(By.LINK_TEXT, "default").click()
    own_site.wait(lambda: "Version 2 is active" in own_site.text())
    own_site.press("Activate")
    assert own_site.path == "/models/default" and "Version 1 is active" in own_site.text()
    own_site.press("Roll back")
    assert "Version 2 is active" in own_site.text()
    assert len(own_site.all("[aria-label=History] tbody tr")) == 4


@pytest.fixture
def train_again(instance):
    from tests.support.stores import train_into

    train_into(instance)


def test_the_pages_work_by_keyboard_alone(site):
    site.open("/?model=homes")
    keys = webdriver.ActionChains(site.browser)

    def focused():
        return site.browser.switch_to.active_element

    def tab_to(name):
        for _ in range(40):
            keys.send_keys(Keys.TAB).perform()
            if name in (focused().get_attribute("name"), focused().text):
                return
        raise AssertionError(f"TAB does not reach {name}")

    tab_to("age")
    keys.send_keys("41").perform()
    tab_to("home city")
    keys.send_keys("Ro").perform()
    tab_to("Predict")
    previous_page = site.browser.find_element(By.TAG_NAME, "html")
    keys.send_keys(Keys.ENTER).perform()
    site.wait(lambda: previous_page != site.browser.find_element(By.TAG_NAME, "html"))
    assert site.text("output") in ("yes", "no")
    assert Select(site.field("home city")).first_selected_option.text == "Rome"
    tab_to("Models")
    keys.send_keys(Keys.ENTER).perform()
    site.wait(lambda: site.path == "/models")


PAGES = (
    "/",
    "/?model=homes",
    "/models",
    "/models/homes",
    "/models/homes/versions/1",
    "/train",
    "/jobs",
    "/jobs/unknown",
    "/models/nowhere",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_violation(site, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed")
    site.set_color_scheme(scheme)
    for page in PAGES:
        site.open(page)
        assert violations(site) == [], page
    site.open("/?model=homes")
    fill(site)
    site.type("rooms", "2.5")
    site.press("Predict")
    assert violations(site) == []
    site.type("rooms", "2")
    site.press("Predict")
    assert site.text("output") and violations(site) == []


def violations(site):
    """Return the rule and the element of each serious or critical accessibility violation that axe-core finds."""
    site.browser.execute_script(AXE.read_text())
    report = site.browser.execute_async_script("axe.run().then(arguments[0])")
    return [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in report["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def test_the_accessibility_check_finds_a_planted_violation(site):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed")
    site.open("/")
    site.browser.execute_script("document.querySelectorAll('label').forEach(label => label.remove())")
    assert "label" in {rule for rule, _ in violations(site)}


def test_pages_fit_a_phone_screen(site):
    site.browser.set_window_size(375, 800)
    for page in PAGES:
        site.open(page)
        width = site.browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= site.browser.execute_script("return window.innerWidth"), page
    site.browser.set_window_size(1200, 900)


def test_swagger_ui_shows_every_operation(site):
    site.set_color_scheme("dark")
    site.open("/docs")
    site.wait(lambda: len(site.all(".opblock")) >= 15)
    assert "/models/homes/predict" in site.text("#viewer")
    site.all(".opblock-summary-path")[0].click()
    site.wait(lambda: site.all(".opblock.is-open"))
    for scheme, background in (("dark", "rgba(28, 32, 34, 1)"), ("light", "rgba(0, 0, 0, 0)")):
        site.set_color_scheme(scheme)
        page = site.browser.find_element(By.TAG_NAME, "html")
        site.wait(lambda page=page, color=background: page.value_of_css_property("background-color") == color)
