"""Examples of what the service answers, for its documentation, by the name of the model."""

from typing import Any

_JOB_ID = "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4a"
_KEY_ID = "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4c"
_WORKER_ID = "0198f19e-10aa-7c21-8d3e-5b7a9c1d2e3f"
_SUBMITTED = "2026-11-22T02:02:02.000000Z"
_STARTED = "2026-11-22T02:02:02.012345Z"
_FINISHED = "2026-11-22T02:02:03.512345Z"

_JOB: dict[str, Any] = {
    "id": _JOB_ID,
    "type": "thumbnail",
    "state": "completed",
    "attempt": 1,
    "payload": {"image": "cat.jpg", "width": 320},
    "queue": "media",
    "priority": "high",
    "run_at": _SUBMITTED,
    "expires_at": None,
    "timeout_seconds": 60.0,
    "max_attempts": 5,
    "unique_key": None,
    "depends_on": [],
    "tags": ["cats"],
    "metadata": {},
    "name": None,
    "description": None,
    "result": {"file": "cat-320.jpg"},
    "error": None,
    "progress": {"percent": 100.0, "message": "written"},
    "cancel_requested": False,
    "created_at": _SUBMITTED,
    "updated_at": _FINISHED,
    "started_at": _STARTED,
    "finished_at": _FINISHED,
    "deduplicated": False,
    "links": {
        "self": f"/api/v1/jobs/{_JOB_ID}",
        "logs": f"/api/v1/logs/{_JOB_ID}",
        "attempts": f"/api/v1/jobs/{_JOB_ID}/attempts",
        "events": f"/api/v1/jobs/{_JOB_ID}/events",
    },
}

_NEW_JOB = _JOB | {
    "state": "queued",
    "attempt": 0,
    "result": None,
    "progress": None,
    "updated_at": _SUBMITTED,
    "started_at": None,
    "finished_at": None,
}

_API_KEY: dict[str, Any] = {
    "id": _KEY_ID,
    "name": "web shop",
    "prefix": "tf_live_Ab3dEf7h",
    "scopes": ["jobs:read", "jobs:write"],
    "state": "active",
    "created_at": _SUBMITTED,
    "created_by": {"kind": "settings", "id": "settings"},
    "expires_at": None,
    "revoked_at": None,
    "replaces": None,
    "last_used_at": _FINISHED,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "JobView": _JOB,
    "BatchView": {
        "accepted": 1,
        "refused": 1,
        "items": [
            {"status": 202, "replayed": False, "job": _NEW_JOB},
            {
                "status": 422,
                "problem": {
                    "type": "urn:taskflow:problem:invalid_content",
                    "title": "The content is not acceptable",
                    "status": 422,
                    "detail": "The payload doesn't fit the schema of 'thumbnail'.",
                    "code": "invalid_content",
                    "errors": [{"pointer": "/jobs/1/payload/image", "detail": "is required"}],
                },
            },
        ],
    },
    "JobPage": {"items": [_JOB], "next_cursor": "hb0Uq0o0m7gABkF…", "has_more": True},
    "JobStats": {
        "total": 3,
        "by_state": {
            "scheduled": 0,
            "blocked": 0,
            "queued": 1,
            "running": 0,
            "retrying": 0,
            "completed": 2,
            "failed": 0,
            "cancelled": 0,
            "expired": 0,
        },
        "by_queue": {"media": {"queued": 1, "completed": 2}},
    },
    "AttemptList": {
        "items": [
            {
                "number": 1,
                "outcome": "retryable",
                "worker_id": _WORKER_ID,
                "started_at": _STARTED,
                "finished_at": _FINISHED,
                "duration_seconds": 1.5,
                "error": {
                    "type": "ConnectionError",
                    "message": "the image server is busy",
                    "retryable": True,
                },
            }
        ]
    },
    "EventList": {
        "items": [
            {
                "event": "claim",
                "source": "queued",
                "target": "running",
                "attempt": 1,
                "worker_id": _WORKER_ID,
                "detail": None,
                "at": _STARTED,
            }
        ]
    },
    "WorkerList": {
        "items": [
            {
                "id": _WORKER_ID,
                "host": "worker-1",
                "pid": 4711,
                "version": "0.1.0",
                "state": "running",
                "alive": True,
                "queues": ["default", "media"],
                "job_types": ["echo", "thumbnail"],
                "concurrency": 10,
                "running": [_JOB_ID],
                "started_at": _SUBMITTED,
                "heartbeat_at": _FINISHED,
            }
        ]
    },
    "JobTypeList": {
        "items": [
            {
                "name": "thumbnail",
                "payload_schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string"}, "width": {"type": "integer"}},
                    "required": ["image"],
                },
                "queue": "media",
                "max_attempts": 5,
                "timeout_seconds": 60.0,
                "description": "Make an image small.",
                "workers": 2,
                "registered_at": _SUBMITTED,
                "updated_at": _SUBMITTED,
            }
        ]
    },
    "RegistrationAccepted": {
        "email": "ada@example.com",
        "detail": "If the address was free it has a user now, who can sign in.",
    },
    "TokenResponse": {
        "access_token": "eyJhbGciOiJIUzI1NiIs…",
        "token_type": "bearer",
        "expires_in": 900,
        "refresh_token": "tf_refresh_vXb0…",
        "scope": "admin jobs:read jobs:write queues:write",
    },
    "Me": {
        "kind": "user",
        "id": "0198f1a0-11aa-7c21-8d3e-5b7a9c1d2e3f",
        "tenant_id": "0198f1a0-11ab-7d3a-9f6b-0f8e7c6d5b4a",
        "scopes": ["admin", "jobs:read", "jobs:write", "queues:write"],
        "email": "ada@example.com",
    },
    "ApiKeyView": _API_KEY,
    "NewApiKeyView": _API_KEY
    | {
        "last_used_at": None,
        "key": "tf_live_Ab3dEf7h_0123456789ABCDEFGHIJKLMNOPQRSTUV39OnK9",
    },
    "ApiKeyPage": {"items": [_API_KEY], "next_cursor": None, "has_more": False},
    "AuditPage": {
        "items": [
            {
                "id": "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4d",
                "created_at": _FINISHED,
                "actor": {"kind": "key", "id": "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4e"},
                "action": "api_key.rename",
                "resource": {"kind": "api_key", "id": _KEY_ID},
                "before": {"name": "shop"},
                "after": {"name": "web shop"},
                "client_address": "203.0.113.7",
                "request_id": "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4f",
            }
        ],
        "next_cursor": None,
        "has_more": False,
    },
    "Status": {"status": "ok"},
    "Health": {
        "status": "degraded",
        "dependencies": {
            "database": {"status": "ok", "latency_ms": 1.2, "hint": None},
            "broker": {
                "status": "down",
                "latency_ms": 0.1,
                "hint": "See TASKFLOW_AMQP_URL. Jobs are accepted and run once RabbitMQ is back.",
            },
            "redis": {"status": "ok", "latency_ms": 0.6, "hint": None},
            "object_storage": {"status": "ok", "latency_ms": 3.9, "hint": None},
        },
    },
}
