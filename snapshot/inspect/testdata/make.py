# Makes files of each kind, as torch itself writes them, in the directory that
# is its argument. There is no safetensors package here: those are written by
# hand, as its format page says.
import collections, dataclasses, json, os, pickle, shutil, struct, sys, types, zipfile

# torch 1.13's DCP has mutable defaults, which Python 3.11 no longer allows
# without a __hash__.
plain = dataclasses.dataclass
def dataclass(cls=None, **kw):
    if cls is not None and '__hash__' not in cls.__dict__ and not kw.get('frozen'):
        kw.setdefault('unsafe_hash', True)
    return plain(cls, **kw)
dataclasses.dataclass = dataclass

import torch, torch.package
import torch.distributed._shard.checkpoint as dcp

os.chdir(sys.argv[1])
torch.manual_seed(1)

def state():
    base = torch.arange(12, dtype=torch.float32)
    return collections.OrderedDict(
        model={'w': torch.randn(4, 5), 'view': base[2:6], 'again': base, 'empty': torch.zeros(0),
               'half': torch.ones(3, dtype=torch.float16), 'bf': torch.ones(5, dtype=torch.bfloat16),
               'double': torch.ones(2, dtype=torch.float64), 'long': torch.arange(7), 'bool': torch.ones(3, dtype=torch.bool),
               'complex': torch.ones(2, dtype=torch.complex64), 'param': torch.nn.Parameter(torch.ones(2, 2))},
        lists=[1, -2, 2.5, 1 << 40, 1 << 80, None, True, (), (1, 2, 3, 4), {3, 4}, b'bytes', 'text' * 5000],
        rng=torch.get_rng_state(), step=12000)

torch.save(state(), 'state.pt')
torch.save(state(), 'proto4.pt', pickle_protocol=4)
torch.save(state(), 'legacy.pt', _use_new_zipfile_serialization=False)
torch.save(state(), 'legacy4.pt', _use_new_zipfile_serialization=False, pickle_protocol=4)
torch.save(torch.randn(3), 'one.pt')

model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
opt = torch.optim.AdamW(model.parameters())
model(torch.randn(3, 6)).sum().backward()
opt.step()
sched = torch.optim.lr_scheduler.StepLR(opt, 3)
os.mkdir('hf')
torch.save(model.state_dict(), 'hf/pytorch_model.bin')
torch.save(opt.state_dict(), 'hf/optimizer.pt')
torch.save(sched.state_dict(), 'hf/scheduler.pt')
torch.save({'python': (3, tuple(range(700)), None), 'cpu': torch.get_rng_state()}, 'hf/rng_state.pth')
json.dump({'global_step': 100, 'log_history': [{'loss': float('nan'), 'lr': -float('inf')}, {'text': 'g\u00fc\n'}]}, open('hf/trainer_state.json', 'w'), indent=2)
json.dump({}, open('hf/config.json', 'w'))

torch.save([torch.tensor([i], dtype=torch.int32) for i in range(70000)], 'many.pt')
torch.jit.save(torch.jit.script(model), 'script.pt')

with torch.package.PackageExporter('package.pt') as package:
    package.save_pickle('model', 'state.pkl', {'a': torch.ones(3)})

with zipfile.ZipFile('repacked.pt', 'w', zipfile.ZIP_DEFLATED) as z, zipfile.ZipFile('state.pt') as old:
    for name in old.namelist():
        z.writestr(name, old.read(name))
    z.comment = b'repacked'

pickle.dump(state()['lists'], open('plain.pkl', 'wb'))

for name, single in ('dcp', True), ('dcp_many', False):
    # A sharded step has a tensor a file or all in one.
    dcp.save_state_dict({'w': torch.randn(4, 4), 'v': torch.ones(3), 'opt': {'lr': 1e-3, 'betas': (0.9, 0.99)}, 'step': 7},
                        dcp.FileSystemWriter(name, single_file_per_rank=single), no_dist=True)

# Newer versions of torch have the classes elsewhere, and a field more that is
# left out of the state when it is not set.
new = types.ModuleType('torch.distributed.checkpoint.filesystem')
class _StorageInfo:
    def __init__(self, relative_path, offset, length):
        self.relative_path, self.offset, self.length, self.transform_descriptors = relative_path, offset, length, None
    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if v is not None}
class Metadata:
    pass
for c in _StorageInfo, Metadata:
    c.__module__, c.__qualname__ = new.__name__, c.__name__
    setattr(new, c.__name__, c)
sys.modules['torch.distributed.checkpoint'] = types.ModuleType('torch.distributed.checkpoint')
sys.modules[new.__name__] = new
old = pickle.load(open('dcp/.metadata', 'rb'))
moved = Metadata()
moved.state_dict_metadata = {'w': torch.Size((4, 4))}
moved.storage_data = {k.fqn: _StorageInfo(v.relative_path, v.offset, v.length) for k, v in old.storage_data.items()}
shutil.copytree('dcp', 'dcp_new')
pickle.dump(moved, open('dcp_new/.metadata', 'wb'))

def safetensors(path, tensors, metadata=None, pad=0):
    header, data = {}, b''
    if metadata:
        header['__metadata__'] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8 + pad)
    open(path, 'wb').write(struct.pack('<Q', len(text)) + text + data)

os.mkdir('st')
f32 = lambda *v: struct.pack('<%df' % len(v), *v)
safetensors('st/model-00001-of-00002.safetensors',
            {'a.weight': ('F32', [2, 3], f32(1, 2, 3, 4, 5, 6)), 'a.bias': ('BF16', [4], b'\x80\x3f' * 4), 'scalar': ('I64', [], b'\1' * 8)},
            {'format': 'pt'}, 16)
safetensors('st/model-00002-of-00002.safetensors',
            {'b.weight': ('F16', [2, 2], b'\0\x3c' * 4), 'none': ('F32', [0, 7], b''), 'q.\u00fc': ('F4', [4], b'\1\2')})
weights = {'a.weight': 1, 'a.bias': 1, 'scalar': 1, 'b.weight': 2, 'none': 2, 'q.\u00fc': 2}
json.dump({'metadata': {'total_size': 50}, 'weight_map': {k: 'model-0000%d-of-00002.safetensors' % v for k, v in weights.items()}},
          open('st/model.safetensors.index.json', 'w'), indent=2)
safetensors('nothing.safetensors', {})
os.mkdir('bin')
for i in 1, 2:
    torch.save({'w%d' % i: torch.ones(i)}, 'bin/pytorch_model-0000%d-of-00002.bin' % i)
json.dump({'weight_map': {'w%d' % i: 'pytorch_model-0000%d-of-00002.bin' % i for i in (1, 2)}}, open('bin/pytorch_model.bin.index.json', 'w'))

os.mkdir('nan')
safetensors('nan/model.safetensors', {'good': ('F32', [2], f32(1, 2)), 'bad': ('F32', [3], f32(float('nan'), 1, float('inf'))),
                                      'bad16': ('BF16', [2], b'\xc0\x7f\x80\xff')})
torch.save({'bad': torch.tensor([1.0, float('nan')], dtype=torch.float64), 'h': torch.tensor([float('-inf')], dtype=torch.float16)}, 'nan/optimizer.pt')
torch.save({'bad': torch.tensor([float('nan')])}, 'nan/legacy.pt', _use_new_zipfile_serialization=False)
