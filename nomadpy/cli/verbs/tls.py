"""``nomadpy tls``: an authority of one's own and the certificates of agents. They need no agent."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nomadpy.cli.failures import UsageProblem
from nomadpy.cli.flags import AsJSON, Template
from nomadpy.cli.session import Session

if TYPE_CHECKING:
    from nomadpy.cli.views.base import Details

Domain = Annotated[str, typer.Option("-domain", help="The domain of the names; agents look for nomad.")]
Days = Annotated[int, typer.Option("-days", help="For how many days it is valid.")]
_KEY_MODE, _CERT_MODE = 0o600, 0o644


def _text(flag: str, what: str) -> Any:
    return typer.Option(flag, help=f"{what} in the subject.")


def ca_create(
    session: Session,
    *,
    domain: Domain = "nomad",
    days: Days = 1825,
    common_name: Annotated[str, typer.Option("-common-name", help="What the authority is called.")] = "",
    name_constraint: Annotated[
        bool, typer.Option("-name-constraint", help="Let it issue names of the domain and localhost only.")
    ] = False,
    additional_domain: Annotated[
        list[str] | None, typer.Option("-additional-domain", help="With -name-constraint also this one; repeatable.")
    ] = None,
    country: Annotated[str, _text("-country", "The country")] = "",
    province: Annotated[str, _text("-province", "The province")] = "",
    locality: Annotated[str, _text("-locality", "The place")] = "",
    street_address: Annotated[str, _text("-street-address", "The street")] = "",
    postal_code: Annotated[str, _text("-postal-code", "The postal code")] = "",
    organization: Annotated[str, _text("-organization", "The organization")] = "nomadpy",
    organizational_unit: Annotated[str, _text("-organizational-unit", "The unit")] = "",
) -> None:
    """Create an authority: <domain>-agent-ca.pem, which every agent needs, and its key, which none of them needs."""
    from nomadpy.cli.certificates import CaRequest, make_ca, write_new

    if additional_domain and not name_constraint:
        raise UsageProblem("-additional-domain needs -name-constraint")
    subject = {
        "country": country,
        "province": province,
        "locality": locality,
        "street-address": street_address,
        "postal-code": postal_code,
        "organization": organization,
        "organizational-unit": organizational_unit,
    }
    permitted = (domain, "localhost", *(additional_domain or ())) if name_constraint else ()
    request = CaRequest(common_name=common_name, days=days, permitted=permitted, subject=subject)
    cert_path, key_path = Path(f"{domain}-agent-ca.pem"), Path(f"{domain}-agent-ca-key.pem")
    cert, key = make_ca(request, dt.datetime.now(dt.UTC))
    write_new({cert_path: (cert, _CERT_MODE), key_path: (key, _KEY_MODE)})
    session.say(f"CA certificate saved to {cert_path}")
    session.say(f"CA certificate key saved to {key_path}")


def cert_create(
    session: Session,
    *,
    server: Annotated[bool, typer.Option("-server", help="For a server.")] = False,
    client: Annotated[bool, typer.Option("-client", help="For a client.")] = False,
    cli: Annotated[bool, typer.Option("-cli", help="For the command line.")] = False,
    cluster_region: Annotated[
        str, typer.Option("-cluster-region", help="The agent's region; -region means the same.")
    ] = "",
    domain: Domain = "nomad",
    days: Days = 365,
    node: Annotated[
        str, typer.Option("-node", help="With -server: good for the server of this name only.", metavar="<name>")
    ] = "",
    additional_dnsname: Annotated[
        list[str] | None, typer.Option("-additional-dnsname", help="Another DNS name; repeatable.")
    ] = None,
    additional_ipaddress: Annotated[
        list[str] | None, typer.Option("-additional-ipaddress", help="Another IP address; repeatable.")
    ] = None,
    ca: Annotated[str, typer.Option("-ca", help="The authority's certificate [<domain>-agent-ca.pem].")] = "",
    key: Annotated[str, typer.Option("-key", help="The authority's key [<domain>-agent-ca-key.pem].")] = "",
) -> None:
    """Create a certificate and its key for an agent or the command line, such as global-server-nomad.pem."""
    from nomadpy.cli.certificates import CertRequest, issue, write_new

    kinds = [kind for kind, wanted in (("server", server), ("client", client), ("cli", cli)) if wanted]
    if len(kinds) != 1:
        raise UsageProblem("say what the certificate is for: one of -server, -client and -cli")
    if node and not server:
        raise UsageProblem("-node goes with -server only")
    request = CertRequest(
        kind=kinds[0],
        region=cluster_region or session.settings.region or "global",
        domain=domain,
        node=node,
        days=days,
        dns_names=tuple(additional_dnsname or ()),
        ip_addresses=tuple(additional_ipaddress or ()),
    )
    ca_pem = Path(ca or f"{domain}-agent-ca.pem").read_bytes()
    key_pem = Path(key or f"{domain}-agent-ca-key.pem").read_bytes()
    cert, cert_key = issue(request, ca_pem, key_pem, dt.datetime.now(dt.UTC))
    cert_path, key_path = Path(f"{request.file_stem}.pem"), Path(f"{request.file_stem}-key.pem")
    write_new({cert_path: (cert, _CERT_MODE), key_path: (cert_key, _KEY_MODE)})
    session.say(f"{kinds[0].capitalize()} certificate saved to {cert_path}")
    session.say(f"{kinds[0].capitalize()} certificate key saved to {key_path}")


def ca_info(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="<file>")] = "nomad-agent-ca.pem",
    *,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show the certificate of an authority."""
    _info(session, path, as_json, template)


def cert_info(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="<file>")],
    *,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show the certificate of an agent."""
    _info(session, path, as_json, template)


def _info(session: Session, path: str, as_json: bool, template: str | None) -> None:
    from nomadpy.cli.certificates import describe
    from nomadpy.model.errors import Invalid

    try:
        found = describe(Path(path).read_bytes())
    except Invalid as problem:
        raise Invalid(f"{path}: {problem.message}") from problem
    if not session.put_out(found, as_json=as_json, template=template):
        session.show(_details(found))


def _details(found: dict[str, Any]) -> Details:
    from nomadpy.cli.views.base import Details

    rows = [
        ("Serial Number", found["SerialNumber"]),
        ("Issuer CN", found["IssuerCN"]),
        ("Common Name", found["CommonName"]),
        ("Valid From", found["NotBefore"]),
        ("Expiry Date", found["ExpiryDate"]),
        ("Authority", "yes" if found["IsCA"] else "no"),
    ]
    lists = (
        ("DNS Names", "DNSNames"),
        ("IP Addresses", "IPAddresses"),
        ("Permitted DNS Domains", "PermittedDNSDomains"),
    )
    return Details([*rows, *((title, ", ".join(found[key])) for title, key in lists if found[key])])
