"""Works a cloud with the OpenADR 3.1 client of other makers (PyPI python-oa3-client and openadr3): a VEN, and business logic.

Arguments: the address of OpenADR, the VEN's user, the operator's user (the password is the name), the program. Ends with 0 if everything
was as the client expects; what it has seen goes to stdout as one JSON object.
"""

import json
import sys

import httpx
from openadr3_client.bl import BlClient
from openadr3_client.ven import VenClient

url, user, operator, program = sys.argv[1:]


def refused(response, status, field=None):
    """The problem of the standard, and which field it names."""
    problem = response.json()
    assert response.status_code == status, (response.status_code, problem)
    assert problem["status"] == status and problem["title"] and problem["detail"], problem
    assert response.headers["content-type"] == "application/problem+json"
    assert field is None or problem["field"] == field, problem


def report(event, kw):
    values = [{"type": "LOAD_SHED_DELTA_AVAILABLE", "values": [kw]}]
    resources = [{"resourceName": "AGGREGATED_REPORT", "intervals": [{"id": 0, "payloads": values}]}]
    return {"eventID": event, "clientName": "home", "reportName": "mine", "resources": resources}


def event(kw, start, priority=1):
    payloads = [{"type": "DISPATCH_SETPOINT_RELATIVE", "values": [kw]}]
    period = {"start": start, "duration": "PT15M", "randomizeStart": "PT1M"}
    return {
        "programID": program,
        "eventName": "by hand",
        "priority": priority,
        "intervalPeriod": period,
        "intervals": [{"id": 0, "payloads": payloads}],
    }


try:
    VenClient(url=url, client_id=user, client_secret="wrong").start()
    raise AssertionError("a wrong secret was taken")
except httpx.HTTPStatusError as fault:
    assert fault.response.status_code == 401, fault.response.text
refused(httpx.get(f"{url}/programs"), 401)

# The client finds the token endpoint by itself.
with VenClient(url=url, client_id=user, client_secret=user) as ven, BlClient(
    url=url, client_id=operator, client_secret=operator
) as business:
    assert [known.program_name for known in ven.programs()] == [program]
    assert ven.programs(skip=1) == [] and ven.programs(limit=0) == [] and len(ven.programs(skip=0, limit=50)) == 1
    refused(ven.get_programs(skip="some"), 400, "skip")
    assert ven.resolve_program_id(program) == program
    assert ven.program(program).payload_descriptors
    (first,) = ven.poll_events(program)
    assert first.priority == 0 and first.program_id == program and first.event_name
    (interval,) = first.resolved_intervals()
    asked = {payload.type: payload.values[0] for payload in interval.payloads}["DISPATCH_SETPOINT_RELATIVE"]
    assert ven.event(first.id).interval_period.period == interval.interval_period.period
    assert ven.events(programID="other") == [] and len(ven.events(active="true")) == 1
    refused(ven.get_event_by_id("no-such-event"), 404)

    ven.register("home")
    again = VenClient(url=url, token=ven.token)
    assert again.start().register("home").ven_id == ven.ven_id, "registered twice"
    again.stop()
    refused(ven.create_ven({"objectType": "VEN_VEN_REQUEST", "venName": "home"}), 409)
    refused(ven.create_ven({"objectType": "VEN_VEN_REQUEST", "venName": ""}), 400, "venName")
    fridge = {"objectType": "VEN_RESOURCE_REQUEST", "resourceName": "fridge", "venID": ven.ven_id}
    made = ven.create_resource(fridge)
    assert made.status_code == 201, made.text
    refused(ven.create_resource(fridge), 409)
    (shown,) = ven.resources(venID=ven.ven_id)
    assert (shown.resource_name, shown.ven_id) == ("fridge", ven.ven_id)
    assert ven.resource(shown.id).resource_name == "fridge"
    assert ven.update_resource(shown.id, {**fridge, "resourceName": "freezer"}).status_code == 200
    assert ven.delete_resource(shown.id).status_code == 200
    refused(ven.get_resource_by_id(shown.id), 404)
    assert ven.ven(ven.ven_id).client_id == user

    posted = ven.create_report(report(first.id, 2.5))
    assert posted.status_code == 201, posted.text
    posted = posted.json()["id"]
    assert [known.id for known in ven.reports(eventID=first.id)] == [posted]
    assert ven.report(posted).resources[0].intervals[0].payloads[0].values == [2.5]
    refused(ven.create_report({"eventID": first.id}), 400)
    refused(ven.create_report(report("no-such-event", 1.0)), 400, "eventID")
    refused(ven.delete_report(posted), 403)

    # Only business logic makes events.
    refused(ven.create_event(event(-1.0, "2026-01-01T00:00:00Z")), 403)
    refused(ven.delete_event(first.id), 403)
    refused(ven.create_program({"programName": "mine"}), 403)
    refused(business.create_event(event(1.0, "1970-01-02T00:00:00Z")), 400, "intervals[0].payloads")

    # It is called back, with the token that it gave, for each change.
    channel = ven.add_webhook(host="127.0.0.1", callback_host="127.0.0.1", bearer_token="of the callback".replace(" ", "-"))
    channel.start()
    ven.subscribe([program], ["EVENT", "REPORT"], ["CREATE", "UPDATE", "DELETE"], channel)
    (subscription,) = ven.subscriptions(clientName="home")
    assert subscription.object_operations[0].callback_url == channel.callback_url
    elsewhere = {"objects": ["EVENT"], "operations": ["CREATE"], "callbackUrl": "http://169.254.169.254/latest"}
    wanted = {"clientName": "home", "objectOperations": [elsewhere]}
    refused(ven.create_subscription(wanted), 400, "objectOperations[0].callbackUrl")
    made = business.create_event(event(-1.5, "1970-01-02T00:00:00Z"))
    assert made.status_code == 201, made.text
    by_hand = made.json()["id"]
    changed = business.update_event(by_hand, event(-2.0, "1970-01-02T01:00:00Z", 0))
    assert changed.status_code == 200, changed.text
    assert ven.create_report(report(by_hand, 0.5)).status_code == 201
    removed = business.delete_event(by_hand)
    assert removed.status_code == 200, removed.text
    refused(ven.get_event_by_id(by_hand), 404)
    told = [message.payload for message in channel.await_messages(4, timeout=20.0)]
    seen = sorted((notice.object_type, notice.operation, notice.object.id == by_hand) for notice in told)
    assert seen == [
        ("EVENT", "CREATE", True),
        ("EVENT", "DELETE", True),
        ("EVENT", "UPDATE", True),
        ("REPORT", "CREATE", False),
    ], seen
    operations = [notice.operation for notice in told if notice.object_type == "EVENT"]
    assert operations == ["CREATE", "UPDATE", "DELETE"], operations
    wanted["objectOperations"][0]["callbackUrl"] = channel.callback_url
    assert ven.update_subscription(subscription.id, wanted).status_code == 200
    refused(business.update_subscription(subscription.id, wanted), 404)
    assert ven.delete_subscription(subscription.id).status_code == 200
    assert ven.subscriptions() == []
    notifiers = ven.discover_notifiers()
    assert notifiers["WEBHOOK"] is True

print(json.dumps({"event": first.id, "asked": asked, "posted": posted, "by_hand": by_hand}))
