"""The AWS CLI without AWS: the real one, whose calls are held to its own model of the API, noted in the file $AWS_CALLS, and
answered on the spot. What the model does not say, such as which IDs exist, nobody checks.

Run it with Debian's Python, which has Debian's awscli.
"""
import json
import os
import re
import sys

sys.path.insert(0, '/usr/lib/python3/dist-packages')
from awscli import clidriver  # noqa: E402

ACCOUNT, REGION = '111122223333', os.environ.get('AWS_REGION', 'eu-central-1')
SAID = {  # where the first allowed value, or the name of the field, would not do
    'Account': ACCOUNT, 'DBInstanceStatus': 'available', 'CidrBlock': '10.0.0.0/16', 'SecretString': 'secret',
    'authorizationToken': 'QVdTOng=', 'VpcId': 'vpc-0a1b2c3d4e5f60718', 'GroupId': 'sg-0b1c2d3e4f5061728', 'Status': 'SUCCESS',
    'OperationId': 'abc-123', 'NamespaceId': 'ns-abc', 'HostedZoneId': 'Z0123', 'CanonicalHostedZoneId': 'Z0456',
    'QueueUrl': f'https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/layover-dev', 'status': 'ACTIVE',
}


def faults(shape, value, path):
    """What is wrong with a value, beyond what the CLI says itself: values that are not allowed, and forms."""
    if shape.type_name == 'structure':
        for name, inner in (value or {}).items():
            if name in shape.members:
                yield from faults(shape.members[name], inner, f'{path}.{name}')
    elif shape.type_name == 'list':
        for i, inner in enumerate(value):
            yield from faults(shape.member, inner, f'{path}[{i}]')
    elif shape.type_name == 'map':
        for key, inner in value.items():
            yield from faults(shape.key, key, f'{path} key')
            yield from faults(shape.value, inner, f'{path}.{key}')
    elif shape.type_name == 'string':
        allowed, form = getattr(shape, 'enum', None), shape._shape_model.get('pattern')
        if allowed and value not in allowed:
            yield f'{path}: {value!r} is none of {", ".join(allowed)}'
        if form:
            try:
                if not re.fullmatch(form, value, re.ASCII | re.DOTALL):
                    yield f'{path}: {value!r} has not the form {form}'
            except re.error:
                pass  # a form that only Java knows
        if not shape.metadata.get('min', 0) <= len(value) <= shape.metadata.get('max', sys.maxsize):
            yield f'{path}: {value!r} is too short or too long'
    elif shape.type_name in ('integer', 'long') and not shape.metadata.get('min', value) <= value <= shape.metadata.get('max', value):
        yield f'{path}: {value} is out of bounds'


def answer(shape, name, service, seen=()):
    """Something that the API could answer."""
    if shape is None or shape.name in seen:
        return None
    seen = (*seen, shape.name)
    if shape.type_name == 'structure':
        found = {member: answer(inner, member, service, seen) for member, inner in shape.members.items()}
        return {member: value for member, value in found.items() if value is not None}
    if shape.type_name == 'list':
        inner = answer(shape.member, name, service, seen)
        return [] if inner is None or name in ('failures', 'Failures') else [inner]
    if shape.type_name == 'map':
        keys = getattr(shape.key, 'enum', None) or ['key']
        return {key: answer(shape.value, key, service, seen) for key in keys}
    if shape.type_name == 'string':
        if name in SAID:
            return SAID[name]
        if name.lower().endswith(('token', 'marker')):
            return None  # there is no next page
        if name.lower().endswith('arn'):
            return f'arn:aws:{service}:{REGION}:{ACCOUNT}:{name}/0123456789abcdef'
        return (getattr(shape, 'enum', None) or [f'the-{name}'])[0]
    return {'integer': 1, 'long': 1, 'boolean': True, 'float': 1.0, 'double': 1.0, 'blob': b'', 'timestamp': None}.get(shape.type_name)


def take(params, model, **_):
    found = list(faults(model.input_shape, params, model.name)) if model.input_shape else []
    with open(os.environ['AWS_CALLS'], 'a') as calls:
        calls.write(json.dumps({'Service': model.service_model.service_name, 'Name': model.name, 'Input': params, 'Faults': found}, default=str) + '\n')
    if found:
        print('\n'.join(found), file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)  # the CLI would make another code of an exception


class Response:
    status_code, headers = 200, {}


def say(model, **_):
    return Response(), answer(model.output_shape, model.name, model.service_model.service_name) or {}


driver = clidriver.create_clidriver()
driver.session.register('before-parameter-build', take)
driver.session.register('before-call', say)
sys.exit(driver.main(sys.argv[1:]))
