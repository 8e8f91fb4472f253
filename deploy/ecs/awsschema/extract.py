"""Makes schema.json: the schema of the resources that ../terraform uses, from the bindings that the CDK for Terraform has
generated from the AWS provider. There is no other place but the provider itself, which is in Terraform's registry alone.

    npm pack @cdktf/provider-aws@21.22.1        # of the provider 6.25.0
    tar xzf cdktf-provider-aws-21.22.1.tgz
    python3 extract.py package/lib ../terraform > schema.json
"""
import json, re, sys, os
lib, module = sys.argv[1:]
wanted = set()
for file in os.listdir(module):
    if file.endswith('.tf'):
        for kind, name in re.findall(r'^(resource|data) "aws_(\w+)"', open(f'{module}/{file}').read(), re.M):
            wanted.add(('data-aws-' if kind == 'data' else '') + name.replace('_', '-'))

def body(src, start):
    """the text of the braces that begin at or behind start"""
    i = src.index('{', start); depth = 0; j = i
    while True:
        c = src[j]
        if c == '{': depth += 1
        elif c == '}':
            depth -= 1
            if depth == 0: return src[i:j+1]
        j += 1

def entries(attrs):
    out = []
    for m in re.finditer(r'^\s+("?[a-z0-9_]+"?): \{\s*\n\s*value: (.*),\n\s*isBlock: (true|false),\n\s*type: "(\w+)",\n\s*storageClassType: "(\w+)",', attrs, re.M):
        out.append((m[1].strip('"'), m[2], m[3] == 'true', m[4], m[5]))
    return out

CTY = {'string': 'string', 'number': 'number', 'boolean': 'bool', 'stringMap': ['map', 'string'], 'stringList': ['list', 'string'],
       'numberList': ['list', 'number'], 'booleanMap': ['map','bool'], 'numberMap': ['map', 'number']}

def camel(name):
    parts = name.split('_')
    return parts[0] + ''.join(p[:1].upper() + p[1:] for p in parts[1:])

def interface(dts, name):
    m = re.search(r'export interface ' + name + r'\b[^{]*\{', dts)
    if not m: return {}
    text = body(dts, m.start())
    return {m[1]: m[2] == '' for m in re.finditer(r'readonly (\w+)(\??):', text)}

def attribute(kind, storage, value):
    if storage in CTY:
        t = CTY[storage]
        if kind == 'set' and isinstance(t, list): t = ['set', t[1]]
        return t
    return None

def block(js, dts, attrs_text, iface):
    req = interface(dts, iface)
    attributes, blocks = {}, {}
    for name, value, is_block, kind, storage in entries(attrs_text):
        required = req.get(camel(name), False)
        t = attribute(kind, storage, value)
        nested = re.search(r'\b(\w+)ToHclTerraform\b(?!.*ToHclTerraform)', value)
        if t is not None:
            attributes[name] = {'type': t, 'required': required}
        elif nested and not value.startswith('cdktf.') or nested and 'listMapperHcl' in value:
            fn = nested[1]
            if fn in ('string','number','boolean','any'):
                attributes[name] = {'type': [kind if kind in('list','set','map') else 'list', {'string':'string','number':'number','boolean':'bool','any':'dynamic'}[fn]], 'required': required}; continue
            pos = js.index('function ' + fn + 'ToHclTerraform(')
            sub = block(js, dts, body(js, js.index('const attrs', pos)), fn[:1].upper() + fn[1:])
            blocks[name] = {'block': sub, 'nesting': 'set' if kind == 'set' else 'list', 'min': 1 if required else 0, 'max': 0 if 'listMapperHcl' in value else 1}
            if name == 'timeouts': blocks[name] = {'block': sub, 'nesting': 'single', 'min': 0, 'max': 0}
        else:
            print('??', iface, name, value, kind, storage, file=sys.stderr)
    return {'attributes': attributes, 'blocks': blocks}

def computed(js, cls):
    m = re.search(r'class ' + cls + r' extends cdktf\.\w+ \{', js)
    text = body(js, m.start())
    out = {}
    for g in re.finditer(r"get (\w+)\(\) \{\s*return (.*);", text):
        call = g[2]
        s = re.search(r"(?:this|cdktf\.Fn\.tolist\(this)\.get(\w+)Attribute\('([a-z0-9_]+)'\)", call)
        if s:
            out[s[2]] = {'String': 'string', 'Number': 'number', 'Boolean': 'bool', 'List': ['list', 'string'], 'StringMap': ['map', 'string'], 'NumberList': ['list','number'], 'BooleanMap': ['map','bool'],'NumberMap': ['map','number']}[s[1]]
            if 'tolist' in call: out[s[2]] = ['set', 'string']
    for g in re.finditer(r"this\._\w+ = new (\w+)\(this, \"([a-z0-9_]+)\"(?:, (true|false))?\);", text):
        out[g[2]] = ('nested', g[1], g[3] == 'true')
    return out

def element(js, cls):
    """the object type of a computed list"""
    ref = re.sub(r'List$', '', cls) + 'OutputReference'
    if not re.search(r'class ' + ref + r'\b', js): ref = cls
    t = {}
    for name, kind in computed(js, ref).items():
        if isinstance(kind, tuple): kind = ['list', element(js, kind[1])]
        t[name] = kind
    return ['object', t]

result = {}
for folder in sorted(wanted):
    js = open(f'{lib}/{folder}/index.js').read(); dts = open(f'{lib}/{folder}/index.d.ts').read()
    m = re.search(r'class (\w+) extends cdktf\.(TerraformResource|TerraformDataSource) \{', js)
    cls, kind = m[1], m[2]
    tf = re.search(cls + r'\.tfResourceType = "(\w+)"', js)[1]
    at = js.index('synthesizeHclAttributes', m.start())
    attrs_text = body(js, js.index('const attrs', at))
    out = block(js, dts, attrs_text, cls + 'Config')
    for name, t in computed(js, cls).items():
        if name in out['attributes'] or name in out['blocks']: continue
        if isinstance(t, tuple): t = ['set' if t[2] else 'list', element(js, t[1])]
        out['attributes'][name] = {'type': t, 'computed': True}
    result.setdefault('data' if kind == 'TerraformDataSource' else 'resource', {})[tf] = out
# Ephemeral resources have no bindings; this one is from the provider's documentation.
text = lambda names, **more: {name: {'type': 'string', **more} for name in names}
result['ephemeral'] = {'aws_secretsmanager_secret_version': {'blocks': {}, 'attributes': {
    **text(['secret_id'], required=True), **text(['region', 'version_id', 'version_stage']),
    **text(['arn', 'created_date', 'id', 'secret_string', 'secret_binary'], computed=True)}}}
json.dump(result, sys.stdout, separators=(',', ':'), sort_keys=True)
