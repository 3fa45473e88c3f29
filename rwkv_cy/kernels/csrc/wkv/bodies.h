/* WKV of every version, for one type of activations and one instruction set. */
#include "wkv/heads_body.h"
#include "wkv/heads_gradient_body.h"
#include "wkv/wkv4_body.h"
#include "wkv/wkv4_gradient_body.h"
#include "wkv/wkv6_body.h"
#include "wkv/wkv6_gradient_body.h"
#include "wkv/wkv7_body.h"
#include "wkv/wkv7_gradient_body.h"
