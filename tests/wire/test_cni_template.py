"""Tests of wire.cni_template."""

import json

import pytest

from sampan.model.errors import Invalid
from sampan.wire import cni, cni_template

DOCUMENTED = """\
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipam": {
        "type": "host-local",
        "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
        "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""
DUAL = cni_template.values(["10.88.0.0/16", "fd00:88::/64"])


@pytest.mark.parametrize(
    ("cidrs", "routes"),
    [
        (["10.88.0.0/16"], ["0.0.0.0/0"]),
        (["fd00:88::/64"], ["::/0"]),
        (["10.88.0.0/16", "fd00:88::/64"], ["0.0.0.0/0", "::/0"]),
        (["fd00:88::/64", "10.88.0.0/16"], ["0.0.0.0/0", "::/0"]),
    ],
)
def test_the_documented_template_of_containerd_makes_a_network(cidrs: list[str], routes: list[str]) -> None:
    made = cni_template.render(DOCUMENTED, cni_template.values(cidrs))
    assert cni.parse(made.encode()).name == "pods"
    ipam = json.loads(made)["plugins"][0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": cidr}] for cidr in cidrs]
    assert ipam["routes"] == [{"dst": route} for route in routes]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain { } text", "plain { } text"),
        ("{{.PodCIDR}}", "10.88.0.0/16"),
        ("{{ .PodCIDR }}", "10.88.0.0/16"),
        ("a {{- .PodCIDR -}} b", "a10.88.0.0/16b"),
        ("{{range .Routes}}<{{.}}>{{end}}", "<0.0.0.0/0><::/0>"),
        ("{{range $r := .Routes}}{{$r}} {{end}}", "0.0.0.0/0 ::/0 "),
        ("{{range $i, $r := .Routes}}{{$i}}{{end}}", "01"),
        ("{{if .PodCIDR}}yes{{else}}no{{end}}", "yes"),
        ("{{range $i, $r := .Routes}}{{if $i}},{{else}}:{{end}}{{end}}", ":,"),
        ("a{{/* a remark */}}b", "ab"),
        ("{{.Routes}}", "[0.0.0.0/0 ::/0]"),
    ],
)
def test_what_of_gos_templates_is_understood(template: str, text: str) -> None:
    assert cni_template.render(template, DUAL) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.PodCidr}}", r"line 1: there is no \.PodCidr; known here: \.PodCIDR, \.PodCIDRRanges, \.Routes"),
        ("{{.}}", r"there is no \."),
        ("{{$x}}", r"there is no \$x"),
        ("{{range $x := .Routes}}{{end}}{{$x}}", r"there is no \$x"),
        ("\n\n{{ printf .PodCIDR }}", r"line 3: \{\{printf \.PodCIDR\}\} is not understood"),
        ('{{template "x"}}', "is not understood"),
        ("{{range .PodCIDR}}{{end}}", r"\.PodCIDR is no list"),
        ("{{if .PodCIDR}}", r"\{\{end\}\} is missing"),
        ("{{if .PodCIDR}}{{else}}{{else}}{{end}}", "is not understood"),
        ("{{end}}", "is not understood"),
        ("x\n{{ .PodCIDR", r"line 2: \{\{ without \}\}"),
        ("{{if .PodCIDR}}" * 11 + "{{end}}" * 11, "nested deeper"),
    ],
)
def test_what_is_not_understood_is_told_with_its_line(template: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        cni_template.render(template, DUAL)


def test_a_range_is_written_as_ranges_are() -> None:
    made = cni_template.values(["10.88.3.4/16", "FD00:0:0:88::1/64"])
    assert made["PodCIDRRanges"] == ("10.88.0.0/16", "fd00:0:0:88::/64")
    assert made["PodCIDR"] == "10.88.0.0/16"


@pytest.mark.parametrize(
    "cidr",
    [
        "",
        "10.88.0.0",
        "10.88.0.0/33",
        "x/16",
        '10.0.0.0/8", "type": "evil',
        'fe80::1%"}],"x":[{"/64',
        "fe80::%1/64",
    ],
)
def test_only_address_ranges_get_into_a_configuration(cidr: str) -> None:
    with pytest.raises(Invalid, match="pod CIDR"):
        cni_template.values(["10.1.0.0/16", cidr])
    with pytest.raises(Invalid, match="no pod CIDR"):
        cni_template.values([])
