"A training loop without fastai and fastmix: what is left is PyTorch. Data in memory, as bytes"
import contextlib, torch
import torch.nn.functional as F

mean = torch.tensor([.491,.482,.447]).view(1,3,1,1)
std = torch.tensor([.247,.243,.261]).view(1,3,1,1)

def normalize(
    x # Images of bytes `[b,3,h,w]`
): # Floats
    return (x.float()/255 - mean.to(x.device))/std.to(x.device)

def crop_flip(
    x, # Images `[b,c,h,w]`
    pad=4
):
    "Pad, crop each image at a place of its own, flip half of them"
    b,_,h,w = x.shape
    i,j = torch.randint(2*pad+1, (2,b,1), device=x.device)
    rows,cols = i+torch.arange(h, device=x.device),j+torch.arange(w, device=x.device)
    cols = torch.where(torch.rand(b, 1, device=x.device)<.5, cols.flip(1), cols)
    image = torch.arange(b, device=x.device)[:,None,None]
    x = F.pad(x, (pad,pad,pad,pad))
    return x[image,:,rows[:,:,None],cols[:,None]].permute(0, 3, 1, 2) # indexing leaves c last

def batches(
    x, # All images `[n,3,h,w]`, of bytes
    y, # Their classes `[n]`
    n_samples, # Images for each forward pass
    bs,
    training=True # Whether order and partners are random, and the images cropped and flipped
):
    "Batches of images and classes, a tensor for each slot"
    order = torch.randperm if training else torch.arange
    slots = torch.stack([order(len(x), device=x.device) for _ in range(n_samples)])
    for idx in slots.split(bs, 1):
        if training and idx.shape[1]<bs: return # as fastai drops a last batch
        images = x[idx.flatten()]
        images = normalize(crop_flip(images) if training else images)
        yield images.chunk(n_samples),y[idx]

def heads_loss(
    pred, # `[b,n,c]`, or `[b,c]` of one head
    y # `[n,b]`
):
    if pred.ndim==2: return F.cross_entropy(pred, y[0])
    return sum(map(F.cross_entropy, pred.unbind(1), y))

def precision(device, bf16):
    "What a forward pass runs in"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

def train(net, opt, x, y, n_samples=2, bs=128, bf16=False):
    "An epoch of training"
    net.train()
    for xs,ys in batches(x, y, n_samples, bs):
        with precision(x.device, bf16): loss = heads_loss(net(*xs), ys)
        loss.backward()
        opt.step()
        opt.zero_grad()

@torch.no_grad()
def validate(net, x, y, n_samples=2, bs=128, bf16=False):
    "Loss, and each head's accuracy"
    net.eval()
    loss,right = 0.,torch.zeros(n_samples, device=x.device)
    for xs,ys in batches(x, y, n_samples, bs, training=False):
        with precision(x.device, bf16): pred = net(*xs)
        loss += heads_loss(pred.float(), ys)*ys.shape[1]
        right += (pred.view(len(pred), n_samples, -1).argmax(-1).T==ys).sum(1)
    return loss.item()/len(x),(right/len(x)).tolist()

def sgd(net): # the paper's
    fused = next(net.parameters()).is_cuda
    return torch.optim.SGD(net.parameters(), lr=.01, momentum=.9, nesterov=True,
                           weight_decay=1e-4, fused=fused)
